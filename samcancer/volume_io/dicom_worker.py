"""A process of its own that decodes packed pixels: on some damaged files the decoder ends it.

GDCM aborts the process it runs in where a damaged JPEG contradicts itself (measured: docs/
inference.md). Here that costs one series and not the whole batch. The process takes a request a
line as JSON, answers with a line and the array's bytes, and prints and dumps nothing besides.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from samcancer.errors import InputError
from samcancer.volume_io.dicom_files import RE_COPY, read_slice_hu

SECONDS = 120.0
"""A request that takes longer is damage; a slice takes some milliseconds."""

_START = "import sys; sys.path[:] = sys.argv[1:]; from {0} import serve; serve()"
"""Finds packages where this process does, and runs without the user's main module, which other ways
of starting a process would import."""


class DecodingProcess:
    """Answers requests one by one until it is closed, or until a file has ended it."""

    def __init__(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and words
            [sys.executable, "-c", _START.format(__name__), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def slice_hu(self, path: Path, shape: tuple[int, int]) -> NDArray[np.int16]:
        """Return what ``read_slice_hu`` does; raises as it does."""
        return self._ask(path, {"shape": shape})

    def frames(self, path: Path, indices: list[int]) -> NDArray[Any]:
        """Return (n, rows, columns): some frames of a segmentation, as stored.

        Raises:
            InputError: When they cannot be decoded.
        """
        return self._ask(path, {"indices": indices})

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, path: Path, request: dict[str, Any]) -> NDArray[Any]:
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        timer = threading.Timer(SECONDS, self._process.kill)
        timer.start()
        try:
            requests.write(json.dumps({"path": str(path.resolve()), **request}).encode() + b"\n")
            requests.flush()
            answer = json.loads(answers.readline())
            if "fact" in answer:
                raise InputError(answer["fact"], path=path, mend=answer["mend"])
            dtype = np.dtype(answer["dtype"])
            expected = int(np.prod(answer["shape"])) * dtype.itemsize
            if len(content := answers.read(expected)) != expected:
                raise EOFError
            return np.frombuffer(content, dtype).reshape(answer["shape"])
        except (OSError, EOFError, json.JSONDecodeError):
            raise InputError(
                "its packed pixels are damaged: decoding them ended the decoder",
                path=path,
                mend=RE_COPY,
            ) from None
        finally:
            timer.cancel()


@contextmanager
def decoding_process() -> Iterator[DecodingProcess]:
    """Yield a process that decodes; it ends with the block."""
    process = DecodingProcess()
    try:
        yield process
    finally:
        process.close()


def serve() -> None:
    """Answer requests until there are no more; runs in the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold the patient's data
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        for line in sys.stdin.buffer:
            _answer(json.loads(line), answers)
            answers.flush()


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    path = Path(request["path"])
    try:
        if "shape" in request:
            array: NDArray[Any] = read_slice_hu(path, (request["shape"][0], request["shape"][1]))
        else:
            from samcancer.volume_io.dicom_seg_reading import decode_frames

            array = decode_frames(path, request["indices"])
    except InputError as error:
        answers.write(json.dumps({"fact": error.fact, "mend": error.mend}).encode() + b"\n")
        return
    head = {"dtype": array.dtype.str, "shape": array.shape}
    answers.write(json.dumps(head).encode() + b"\n" + np.ascontiguousarray(array).tobytes())
