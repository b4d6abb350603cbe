"""The table of what an encoder costs is filled from processes of their own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import encoders


@pytest.mark.slow
def test_an_encoder_is_measured_and_one_without_its_file_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAMCANCER_CHECKPOINTS", str(tmp_path))
    page = tmp_path / "results.md"
    page.write_text("<!-- encoders:start -->\n<!-- encoders:end -->\n")
    assert encoders.main(["--encoders", "vit_tiny", "medsam_lite", "--page", str(page)]) == 0
    assert "left out" in capsys.readouterr().err
    (row,) = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    name, trained, frozen, load_s, peak_gb, gigas, slice_s = row.strip("| ").split(" | ")
    assert name == "`vit_tiny`"
    assert float(trained) > 10 * float(frozen)
    assert all(float(x) > 0 for x in (load_s, peak_gb, gigas, slice_s))
