from __future__ import annotations

import pytest

from samcancer.commands import run_verb


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


def test_a_class_set_is_listed_in_the_order_of_its_bits(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("classes", ["--class-set", "universal_model"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = {row[2].strip(): [cell.strip() for cell in row] for row in rows}
    assert len(rows) == 32
    assert cells["liver_tumor"][1:5] == ["26", "liver_tumor", "lesion", "liver"]
    assert cells["liver_tumor"][5] == "108369006 Neoplasm"
    assert cells["liver_tumor"][6] == "A computerized tomography of a liver tumor"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("photo", "A photo of a liver tumor."),
        ("presence", "There is liver tumor in this computerized tomography."),
        ("cancers", "A computerized tomography of a liver tumor with cancers and lesions."),
    ],
)
def test_prompts_follow_the_template(
    template: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("classes", ["--template", template]) == 0
    assert text in capsys.readouterr().out


def test_data_sets_say_what_they_annotate(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("classes", ["--datasets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (lits,) = [line for line in lines if "│ LiTS " in line]
    assert "liver, liver_tumor" in lits
    (flare,) = [line for line in lines if "│ FLARE23 " in line]
    assert "as each case says" in flare


@pytest.mark.parametrize("arguments", [["--class-set", "none"], ["--template", "none"]])
def test_an_unknown_name_is_one_line_with_the_known_ones(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb("classes", arguments) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "universal_model" in message or "tomography" in message
