"""Weight files in every form: the same tensors come out, and hostile ones run nothing."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchscript_files import save_torchscript

from samcancer.errors import InputError
from samcancer.pretrained.weight_files import read_weights


def state_dict() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(4, 6, generator=generator)
    return {
        "text_projection": base[:, 1:].t(),
        "visual.conv1.weight": torch.randn(2, 3, 2, 2, generator=generator).half(),
        "transformer.resblocks.0.ln_1.bias": torch.randn(3, generator=generator).double(),
        "transformer.resblocks.10.ln_1.bias": torch.empty(0, 3),
        "logit_scale": torch.tensor(4.6),
        "context_length": torch.tensor(77),
    }


def require_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


def test_a_torchscript_archive_gives_the_tensors_that_torch_reads(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    save_torchscript(state_dict(), path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        by_torch = torch.jit.load(path).state_dict()
    require_equal(by_torch, state_dict())
    require_equal(read_weights(path), state_dict())


@pytest.mark.parametrize("form", ["plain", "legacy", "wrapped", "parallel", "safetensors"])
def test_every_form_gives_the_same_tensors(tmp_path: Path, form: str) -> None:
    state = {name: tensor.contiguous() for name, tensor in state_dict().items()}
    path = tmp_path / "weights.pt"
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif form == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "parallel":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "plain")
    require_equal(read_weights(path), state)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        save_torchscript(state_dict(), path)
    else:
        save_file({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 211):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="not a readable checkpoint"):
            read_weights(path)


def test_a_flipped_tensor_of_an_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    save_torchscript(state_dict(), path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(state_dict()["visual.conv1.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"not a readable checkpoint \(Bad CRC-32"):
        read_weights(path)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


def with_pickle(path: Path, content: bytes) -> None:
    """Replace the pickle of a TorchScript archive."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, content if name.endswith("/data.pkl") else data)


def test_a_hostile_archive_is_refused_and_not_executed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "clip.pt"
    save_torchscript(state_dict(), path)
    with_pickle(path, pickle.dumps({"a": Hostile(marker)}, protocol=2))
    with pytest.raises(InputError, match=r"it names (posix|nt)\.mkdir, which is not a tensor"):
        read_weights(path)
    torch.save({"a": Hostile(marker)}, path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_weights(path)
    assert not marker.exists()


def test_a_view_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "clip.pt"
    save_torchscript({"a": torch.zeros(7, 3)}, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
        content = archive.read(name)
    size = b"K\x07K\x03"
    assert content.count(size) == 1
    with_pickle(path, content.replace(size, b"K\x08K\x03"))
    with pytest.raises(InputError, match=r"sizes \[8, 3\].* out of bou"):
        read_weights(path)


@pytest.mark.parametrize("content", [[1], {}, {"state_dict": {}}, {"epoch": 3}, {5: torch.ones(1)}])
def test_other_content_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(
        InputError, match=r"weights\.pt: (holds no state dict|entry .* not a tensor)"
    ):
        read_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights\.pt: no such checkpoint file"):
        read_weights(tmp_path / "weights.pt")
