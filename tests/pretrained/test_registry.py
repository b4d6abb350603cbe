from __future__ import annotations

import re
from pathlib import Path

import pytest

from samcancer.errors import InputError
from samcancer.modeling.encoders import ENCODERS
from samcancer.pretrained import find_checkpoint, load_registry
from samcancer.pretrained.registry import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]


def test_every_entry_says_what_it_is_and_how_it_is_had() -> None:
    registry = load_registry()
    assert {"sam_vit_b_01ec64", "sam_vit_l_0b3195", "sam_vit_h_4b8939"} <= set(registry)
    assert len({entry.file for entry in registry.values()}) == len(registry)
    for entry in registry.values():
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.bytes > 10**7
        assert entry.url is None or entry.url.startswith("https://")
        assert (entry.encoder is None) != (entry.open_clip is None)


def test_encoders_of_the_registry_exist() -> None:
    sam = [e for e in load_registry().values() if (e.encoder or "").startswith("sam_")]
    assert sam
    assert {entry.encoder for entry in sam} <= set(ENCODERS)


def test_openai_addresses_carry_the_hash() -> None:
    """OpenAI publishes the SHA-256 as a part of the address."""
    for entry in load_registry().values():
        if entry.url and "openaipublic" in entry.url:
            assert entry.sha256 in entry.url


def test_the_readme_of_checkpoints_names_every_file_and_hash() -> None:
    text = (ROOT / "checkpoints" / "README.md").read_text(encoding="utf-8")
    for entry in load_registry().values():
        assert f"`{entry.name}`" in text
        assert entry.sha256 in text


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ("sha256: abc", "SHA-256 of 64 digits"),
        ("file: ../up.pth", "plain name"),
        ("colour: red", "unknown field 'colour'"),
        ("wheel: a==1", "either url, or wheel and member"),
    ],
)
def test_a_malformed_entry_is_refused(tmp_path: Path, change: str, fact: str) -> None:
    entry = {
        "what": "w", "licence": "MIT", "source": "s", "file": "f.pth", "bytes": 5,
        "sha256": "a" * 64, "url": "https://example.org/f.pth",
    }  # fmt: skip
    key, value = change.split(": ")
    lines = [f"  {k}: {v}" for k, v in {**entry, key: value}.items()]
    path = tmp_path / "registry.yaml"
    path.write_text("one:\n" + "\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=fact):
        load_registry(path)


def test_a_missing_registry_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_registry(tmp_path / "none.yaml")


def test_a_path_leads_to_itself_and_a_name_into_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"x")
    assert find_checkpoint(str(mine)) == mine
    official = tmp_path / "sam_vit_b_01ec64.pth"
    official.write_bytes(b"x")
    assert find_checkpoint("sam_vit_b_01ec64") == official


def test_what_is_missing_is_refused_with_both_ways_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(InputError) as caught:
        find_checkpoint("sam_vit_b_01ec64")
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "sam_vit_b_01ec64.pth"))
    assert "samcancer fetch-checkpoints sam_vit_b_01ec64;" in message
    assert "samcancer fetch-checkpoints sam_vit_b_01ec64 --from FILE" in message
    with pytest.raises(InputError, match="fetch-checkpoints"):
        find_checkpoint(str(tmp_path / "none.pth"))
