from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from real_store import SIZE, make_store

from samcancer.commands import main


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Keep the terminal quiet."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A store, and its address."""
    folder = make_store(tmp_path / "store", patients_per_class=2, healthy=1).folder
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def train(data: str, runs: Path, *words: str, workers: int = 0) -> int:
    settings = [
        *("folds=2", f"model.image_size={SIZE}", "model.cnn_width=4", f"data.workers={workers}"),
        *("train.epochs=1", "train.samples_per_epoch=4", "train.batch_size=2"),
    ]
    given = [word for setting in settings for word in ("--set", setting)]
    command = ["train-fold", "--data", data, "--output", str(runs), "--fold", "0"]
    return main([*command, "--accelerator", "cpu", *given, *words])


def digests(run: Path) -> dict[str, str]:
    """Hash of the weights and of what is told of them."""
    found = [p for p in run.glob("*") if p.suffix in (".safetensors", ".json", ".yaml")]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.mark.parametrize("workers", [0, 1])
def test_training_on_a_store_on_a_server_gives_the_same_checkpoint(
    served: tuple[Path, str], tmp_path: Path, workers: int
) -> None:
    folder, url = served
    assert train(str(folder), tmp_path / "here", workers=workers) == 0
    cache = tmp_path / "cache"
    assert train(url, tmp_path / "there", "--cache", str(cache), workers=workers) == 0
    here, there = (digests(tmp_path / name / "fold_0") for name in ("here", "there"))
    assert any(name.endswith(".safetensors") for name in here)
    assert there == here
    fetched = {p.stem for p in (cache / "files").glob("*/*.h5")}
    lines = (folder / "index.jsonl").read_text().splitlines()
    assert fetched <= {json.loads(line)["file_sha256"] for line in lines}
    assert fetched


def test_a_store_elsewhere_needs_a_cache(
    served: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(served[1], tmp_path / "runs") == 2
    said = capsys.readouterr().err.strip().splitlines()
    address = served[1]
    assert said == [
        f"error: {address}: is read through a folder on this machine. Name one with --cache DIR."
    ]


def test_a_server_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samcancer.data.remote_store._WAIT_S", 0.0)
    address = "http://127.0.0.1:9/store"  # the discard port, where nothing listens
    assert train(address, tmp_path / "runs", "--cache", str(tmp_path / "cache")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {address}/store.json: cannot be fetched (")
    assert line.endswith("Check the address and the network, then run the command again.")
    assert not (tmp_path / "runs").exists()
