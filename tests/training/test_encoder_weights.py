"""Official checkpoint files: good, damaged, hostile, of the wrong content."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from samcancer.errors import InputError
from samcancer.training.encoder_weights import load_sam_state


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_state_dict_is_read_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save({"image_encoder.pos_embed": torch.arange(6.0).view(2, 3)}, path)
    state = load_sam_state(path)
    assert torch.equal(state["image_encoder.pos_embed"], torch.arange(6.0).view(2, 3))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sam\.pth: no such checkpoint file"):
        load_sam_state(tmp_path / "sam.pth")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a readable checkpoint"):
            load_sam_state(path)


def test_a_hostile_file_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "sam.pth"
    torch.save({"a": Hostile(marker)}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_sam_state(path)
    path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_sam_state(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ([1, 2], "holds no state dict but list"),
        ({}, "holds no state dict but dict"),
        ({"epoch": 3}, "entry 'epoch' is not a tensor"),
        ({5: torch.zeros(1)}, "entry 5 is not a tensor"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: object, fact: str) -> None:
    path = tmp_path / "sam.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=fact):
        load_sam_state(path)
