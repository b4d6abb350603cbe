"""Against a DICOM server: a series goes in by DICOMweb, is segmented, and its results go back."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ct_series import PATIENT, SERIES_UID, STUDY_UID, TURNED
from dicom_fakes import liver_and_tumors, write_series

from samcancer.commands import run_verb

PLUGIN = next(Path("/usr").glob("lib/orthanc/libOrthancDicomWeb.so*"), None)

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")

pytestmark = pytest.mark.skipif(
    ORTHANC is None or PLUGIN is None, reason="Orthanc with its DICOMweb plugin is not installed"
)

START_SECONDS = 60

_BOUNDARY = "samcancer-boundary"


class Server:
    """DICOMweb (PS3.18) by hand, so that no client library smooths over what is wrong."""

    def __init__(self, port: int) -> None:
        self.root = f"http://127.0.0.1:{port}/dicom-web"

    def store(self, paths: list[Path]) -> dict[str, Any]:
        """STOW-RS."""
        parts = [
            f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            + path.read_bytes()
            + b"\r\n"
            for path in paths
        ]
        kind = f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}'
        body = b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        answer = json.loads(self._ask("/studies", headers, body))
        assert answer.get("00081198", {}).get("Value", []) == []  # Failed SOP Sequence
        return dict(answer)

    def find(self, path: str) -> list[dict[str, Any]]:
        """QIDO-RS."""
        return list(json.loads(self._ask(path, {"Accept": "application/dicom+json"})))

    def retrieve(self, path: str, folder: Path) -> list[Path]:
        """WADO-RS; write every instance to the folder."""
        folder.mkdir()
        request = urllib.request.Request(
            self.root + path, headers={"Accept": 'multipart/related; type="application/dicom"'}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            boundary = response.headers.get_param("boundary").encode()
            body = response.read()
        files = []
        for number, part in enumerate(body.split(b"--" + boundary)[1:-1]):
            files.append(folder / f"{number}.dcm")
            files[-1].write_bytes(part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n"))
        return files

    def _ask(self, path: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.root + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            content: bytes = response.read()
        return content


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    config = {
        "Name": "samcancer-test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(ORTHANC), str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder
        )
    try:
        found = Server(port)
        wait_for(found, process, folder / "log")
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            server.find("/studies")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"Orthanc did not start:\n{log.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def infer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command with networks whose masks are known."""
    logging.getLogger().addHandler(logging.NullHandler())
    monkeypatch.setattr(
        "samcancer.inference.models.load_ensemble", lambda *_, **__: liver_and_tumors()
    )

    def run(scan: Path, output: Path, *options: str) -> list[Path]:
        words = ["--input", str(scan), "--output", str(output), "--model", "run", "--quiet"]
        assert run_verb("infer-volume", [*words, "--device", "cpu", *options]) == 0
        return sorted(output.glob("*.dcm"))

    return run


def series_of(server: Server, modality: str) -> list[str]:
    found = server.find(f"/studies/{STUDY_UID}/series?Modality={modality}")
    return [item["0020000E"]["Value"][0] for item in found]


def test_results_go_back_to_the_study_that_the_series_came_from(
    server: Server, infer: Any, tmp_path: Path
) -> None:
    sent = sorted(write_series(tmp_path / "sent", direction=TURNED).iterdir())
    assert len(server.store(sent)["00081199"]["Value"]) == len(sent)
    fetched = server.retrieve(f"/studies/{STUDY_UID}/series/{SERIES_UID}", tmp_path / "fetched")
    assert len(fetched) == len(sent)

    results = infer(tmp_path / "fetched", tmp_path / "out", "--dicom", "seg,sr,rtstruct",
                    "--keep-patient")  # fmt: skip
    assert len(server.store(results)["00081199"]["Value"]) == 3
    for modality in ("CT", "SEG", "SR", "RTSTRUCT"):
        assert len(series_of(server, modality)) == 1, modality

    (seg_series,) = series_of(server, "SEG")
    (back,) = server.retrieve(f"/studies/{STUDY_UID}/series/{seg_series}", tmp_path / "back")
    (seg,) = (pydicom.dcmread(path) for path in results if path.name.endswith(".seg.dcm"))
    assert back.read_bytes().endswith(seg.PixelData)
    assert pydicom.dcmread(back).ReferencedSeriesSequence[0].SeriesInstanceUID == SERIES_UID
    patients = server.find(f"/studies?PatientID={PATIENT['PatientID']}&includefield=00081030")
    assert [p["0020000D"]["Value"][0] for p in patients] == [STUDY_UID]


def test_storing_the_results_of_a_second_run_adds_nothing(
    server: Server, infer: Any, tmp_path: Path
) -> None:
    uids = {"StudyInstanceUID": "2.25.4721", "SeriesInstanceUID": "2.25.4722"}
    scan = write_series(tmp_path / "sent", **uids)
    for name, options in (("first", ()), ("second", ("--dicom", "seg,sr,rtstruct"))):
        results = infer(scan, tmp_path / name, *options)
        server.store([path for path in results if "rtstruct" not in path.name])
        found = server.find("/studies/2.25.4721/instances")
        assert sorted(item["00080060"]["Value"][0] for item in found) == ["SEG", "SR"]


def test_a_report_of_nothing_found_is_stored_too(
    server: Server, infer: Any, tmp_path: Path
) -> None:
    dark = np.full((4, 20, 20), -500, np.int16)
    uids = {"StudyInstanceUID": "2.25.4711", "SeriesInstanceUID": "2.25.4712"}
    results = infer(write_series(tmp_path / "dark", dark, **uids), tmp_path / "out")
    assert [p.name for p in results] == ["dark.sr.dcm"]
    server.store(results)
    found = server.find("/studies/2.25.4711/series")
    assert [item["00080060"]["Value"] for item in found] == [["SR"]]
