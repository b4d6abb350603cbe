"""The real command and a real browser: from the drop of a scan to an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813 - the package's own convention
import torch
from ct_series import write_ct_series

from samcancer.commands import run_verb
from samcancer.config import Config, DataConfig, ModelConfig
from samcancer.modeling import build_model
from samcancer.serve.workspace import WORKSPACE_PREFIX
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(BROWSERS)} is here")

CLASSES = ("liver_lesion", "kidney_lesion")

STARTUP_S = 60.0

PATIENCE_MS = 60_000

BRIGHT = 30
"""Grey level from which a pixel of the viewer is not background."""


class Server:
    """The command as a process of its own, with a folder for temporary files of its own."""

    def __init__(self, model: Path, temporary: Path, *options: str) -> None:
        self.temporary = temporary
        temporary.mkdir(exist_ok=True)
        words = ["serve", "--model", str(model), "--port", "0", "--device", "cpu", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from samcancer.commands import main; "
             "sys.exit(main(sys.argv[1:]))", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + (self.process.communicate()[1] if not line else "")
        self.address = found[0]

    def files(self) -> list[str]:
        """Names of what lies in the folder for temporary files, at any depth."""
        return sorted(path.name for path in self.temporary.rglob("*") if path.is_file())

    def stop(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal; return the exit status and what was logged."""
        self.process.send_signal(number)
        _, log = self.process.communicate(timeout=STARTUP_S)
        return self.process.returncode, log


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network that finds something in every slice."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(
        model=ModelConfig(image_size=64, cnn_width=4),
        data=DataConfig(inference_window_hu=(-160.0, 240.0)),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(config.model, CLASSES)
    meta = CheckpointMeta(
        config=config, class_names=CLASSES, presence_thresholds=dict.fromkeys(CLASSES, 0.0)
    )
    save_checkpoint(folder / "best", network, meta)
    return folder


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic patient of 64 x 64 pixels, under a name that would be markup if it could."""
    from data_prep.phantoms.collection import Recipe, write_phantoms

    raw = tmp_path_factory.mktemp("raw")
    write_phantoms(raw, cases=1, recipe=Recipe(seed=0, pixels=64), workers=1)
    scan = next(raw.glob("Dataset901*/imagesTr/*.nii.gz"))
    return scan.rename(scan.with_name("CANARY <b>&amp; Müller.nii.gz"))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "temporary"


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(model: Path, temporary: Path) -> Iterator[StartServer]:
    """Starts servers, and ends those that a failed test leaves."""
    started: list[Server] = []

    def start(*options: str) -> Server:
        started.append(Server(model, temporary, *options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Tab:
    """A page of the server, and what its console had to complain about."""

    def __init__(self, browser: Any, address: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_context(accept_downloads=True).new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready=true]")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def view(self, name: str) -> None:
        """Wait for a view."""
        self.page.wait_for_selector(f"body[data-view={name}]")

    def download(self, label: str, folder: Path) -> Path:
        """Fetch a result as a user does."""
        with self.page.expect_download() as waiting:
            self.page.get_by_role("link", name=label, exact=True).click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path

    def error(self) -> str:
        return str(self.page.locator("[data-text=error]").text_content())


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def lit_pixels(tab: Tab) -> int:
    """How many pixels of the viewer's picture are not background."""
    canvas = tab.page.frame_locator(".viewer-frame").locator(".picture[data-slice] canvas")
    counted = canvas.evaluate(
        "(c, least) => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 0; i < d.length; i += 4) { if (d[i] > least) { n += 1; } }"
        "return n; }",
        BRIGHT,
    )
    return int(counted)


def test_a_scan_is_dropped_looked_at_and_downloaded_and_nothing_stays(
    browser: Any,
    start_server: StartServer,
    model: Path,
    phantom: Path,
    temporary: Path,
    tmp_path: Path,
) -> None:
    server = start_server()
    tab = Tab(browser, server.address)
    drop(tab, phantom)
    tab.view("result")
    assert tab.page.locator(".bar .file-name").text_content() == phantom.name
    assert lit_pixels(tab) > 1000

    mask = tab.download("Mask", tmp_path)
    # The browser itself replaces what file systems refuse.
    assert mask.name == "CANARY _b_&amp; Müller_mask.nii.gz"
    report = json.loads(tab.download("Report", tmp_path).read_text())
    page = tab.download("Page", tmp_path)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert tab.download("Lesions", tmp_path).read_text().startswith("lesion_id")

    words = ["--input", str(phantom), "--output", str(tmp_path / "cli"), "--model", str(model)]
    assert run_verb("infer-volume", [*words, "--device", "cpu", "--quiet"]) == 0
    expected = tmp_path / "cli" / phantom.name
    assert np.array_equal(voxels(mask), voxels(expected))
    assert voxels(mask).any()
    told = json.loads((tmp_path / "cli" / phantom.name.replace(".nii.gz", ".json")).read_text())
    assert report["classes"] == told["classes"]

    # The upload went when the scan was done; the results go when they are deleted.
    assert [name for name in server.files() if name.startswith("file-")] == []
    assert "scan.nii.gz" in server.files()
    tab.page.locator(".result [data-do=delete]").click()
    tab.view("start")
    wait_for_files(server, [".lock"])

    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith((server.address, "data:"))] == []
    status, log = server.stop(signal.SIGTERM)
    assert status == 0
    assert "CANARY" not in log
    assert list(temporary.iterdir()) == []


def test_faults_are_one_line_with_the_users_own_file_name_and_a_folder_follows(
    browser: Any, start_server: StartServer, phantom: Path, temporary: Path, tmp_path: Path
) -> None:
    server = start_server("--max-upload", "400KB")
    tab = Tab(browser, server.address)
    cut = tmp_path / "<i>cut.nii.gz"
    cut.write_bytes(phantom.read_bytes()[:5000])
    tab.page.set_input_files("#file", cut)
    tab.view("failed")
    assert tab.error().startswith("<i>cut.nii.gz: the compressed data is damaged or cut short")
    tab.page.get_by_role("button", name="Try another scan").click()

    large = tmp_path / "large.nii"
    large.write_bytes(bytes(400_001))
    tab.page.set_input_files("#file", large)
    problem = tab.page.locator(".problem")
    assert problem.text_content() == "400 kB is more than the limit of 400 kB."
    tab.page.set_input_files("#file", [cut, large])
    assert "is a whole scan by itself" in str(problem.text_content())

    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a/1.dcm", b"no image")
        packed.writestr("a/2.dcm", b"")
    tab.page.set_input_files("#file", archive)
    tab.view("failed")
    assert tab.error() == "file 2 of the archive: the file is empty (0 bytes). Re-copy the file."
    tab.page.get_by_role("button", name="Try another scan").click()

    image = sitk.GetArrayFromImage(sitk.ReadImage(str(phantom)))
    write_ct_series(tmp_path / "CT series", image[:12], file_name="IM{:05d}")
    tab.page.set_input_files("#folder", tmp_path / "CT series")
    tab.view("result")
    assert tab.page.locator(".bar .file-name").text_content() == "CT series, 12 files"
    assert lit_pixels(tab) > 1000
    assert tab.download("Mask", tmp_path).name == "scan_mask.nii.gz"
    assert pydicom.dcmread(tab.download("DICOM SR", tmp_path)).Modality == "SR"

    tab.page.get_by_role("button", name="Delete").click()
    tab.view("start")
    assert tab.complaints == []
    wait_for_files(server, [".lock"])
    assert server.stop(signal.SIGINT)[0] == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slow  # two starts of the command
def test_a_reload_returns_to_the_result_and_a_killed_servers_files_go_at_the_next_start(
    browser: Any, start_server: StartServer, phantom: Path, temporary: Path
) -> None:
    server = start_server("--token")
    bare = server.address.split("?")[0]
    stranger = browser.new_context().new_page()
    assert stranger.goto(bare).status == 401
    tab = Tab(browser, server.address)
    assert tab.page.url == bare
    tab.page.set_input_files("#file", phantom)
    tab.view("result")
    tab.page.reload()
    tab.view("result")
    assert lit_pixels(tab) > 1000
    assert tab.complaints == []
    _, log = server.stop(signal.SIGKILL)
    assert server.address.split("=")[1] not in log
    left = next(temporary.glob(f"{WORKSPACE_PREFIX}*"))
    assert "scan.nii.gz" in server.files()
    following = start_server()
    assert not left.exists()
    assert following.files() == [".lock"]


def drop(tab: Tab, path: Path) -> None:
    """Drop a file on the page, as from a file manager."""
    handle = tab.page.evaluate_handle(
        """async ([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [list(path.read_bytes()), path.name],
    )
    tab.page.dispatch_event(".drop", "dragenter", {"dataTransfer": handle})
    assert tab.page.locator("body.dragging").count() == 1
    tab.page.dispatch_event(".drop", "drop", {"dataTransfer": handle})


def wait_for_files(server: Server, expected: list[str]) -> None:
    """Wait until exactly these files are left."""
    for _ in range(1000):
        if server.files() == expected:
            return
        time.sleep(0.01)
    assert server.files() == expected
