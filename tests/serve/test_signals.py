"""What a signal leaves: nothing."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest
from serve_fakes import OURS, PATIENCE_S, Scripted

from samcancer.serve.app import ModelFacts
from samcancer.serve.server import listen, run_server
from samcancer.serve.settings import ServeSettings
from samcancer.serve.workspace import WORKSPACE_PREFIX


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_server_in_order(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    segment = Scripted()
    segment.go.clear()

    def on_ready(address: str) -> None:
        def talk() -> None:
            with httpx.Client(base_url=address, headers=OURS, trust_env=False) as client:
                job_id = client.post("/api/jobs?files=1").json()["id"]
                client.put(f"/api/jobs/{job_id}/files/0?suffix=.nii", content=b"x")
                client.post(f"/api/jobs/{job_id}/start")
                segment.begun.wait(PATIENCE_S)
            os.kill(os.getpid(), number)
            segment.go.set()

        threading.Thread(target=talk).start()

    before = signal.getsignal(number)
    listener = listen("127.0.0.1", 0)
    facts = ModelFacts((), "cpu")
    run_server(listener, lambda: (segment, facts), ServeSettings(), on_ready=on_ready)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is before


def test_a_signal_while_the_model_is_loaded_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def load() -> tuple[Scripted, ModelFacts]:
        assert [p.name[: len(WORKSPACE_PREFIX)] for p in tmp_path.iterdir()] == [WORKSPACE_PREFIX]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE_S)
        raise AssertionError("the signal did not come")

    with pytest.raises(KeyboardInterrupt):
        run_server(listen("127.0.0.1", 0), load, ServeSettings(), on_ready=lambda _: None)
    assert list(tmp_path.iterdir()) == []
