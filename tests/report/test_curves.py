"""Training curves from logs, resumed and damaged ones included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.report.curves import curve_figures, read_run_logs


def write_log(folder: Path, epochs: list[int]) -> Path:
    folder.mkdir(parents=True)
    lines = [
        json.dumps({"epoch": epoch, "loss": 1 / epoch, "validation": {"score": 0.5}})
        for epoch in epochs
    ]
    (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_folder_of_runs_gives_every_run_under_its_name(tmp_path: Path) -> None:
    for run in ("fold_1", "fold_0", "final"):
        write_log(tmp_path / run, [1])
    assert [log.name for log in read_run_logs("b", tmp_path)] == [
        "b: final",
        "b: fold_0",
        "b: fold_1",
    ]


def test_a_slice_classifier_has_no_line_among_the_dices(tmp_path: Path) -> None:
    write_log(tmp_path / "final", [1, 2])
    line = json.dumps({"epoch": 1, "loss": 1, "validation": {"region_score": -1.0}})
    (tmp_path / "region").mkdir()
    (tmp_path / "region" / "log.jsonl").write_text(line + "\n")
    loss, dice = curve_figures(read_run_logs("b", tmp_path), group="")
    dots = [figure.chart_svg.count("<circle") for figure in (loss, dice)]
    assert dots == [3, 2]


def test_an_epoch_logged_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    (log,) = read_run_logs("b", write_log(tmp_path / "final", [1, 2, 3, 2, 3, 4]))
    assert [entry["epoch"] for entry in log.epochs] == [1, 2, 3, 4]


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no log\.jsonl"):
        read_run_logs("b", tmp_path)


def test_a_last_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = write_log(tmp_path / "final", [1, 2]) / "log.jsonl"
    path.write_text(path.read_text() + '{"epoch": 3, "lo')
    (log,) = read_run_logs("b", path.parent)
    assert [entry["epoch"] for entry in log.epochs] == [1, 2]


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    (write_log(tmp_path / "final", [1]) / "log.jsonl").write_text('{"epoch": 1, "lo\n')
    with pytest.raises(InputError, match=r"log\.jsonl: not a training log"):
        read_run_logs("b", tmp_path / "final")


def test_loss_and_validation_are_drawn_for_each_run(tmp_path: Path) -> None:
    logs = read_run_logs("b", write_log(tmp_path / "final", [1, 2]))
    loss, dice = curve_figures(logs, group="Final training")
    assert loss.chart_svg.count("<circle") == dice.chart_svg.count("<circle") == 2


def test_runs_that_were_never_validated_have_no_chart_of_it(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "final", [1, 2])
    text = (folder / "log.jsonl").read_text().replace('{"score": 0.5}', "null")
    (folder / "log.jsonl").write_text(text)
    assert len(curve_figures(read_run_logs("b", folder), group="")) == 1
