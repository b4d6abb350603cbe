"""Starting from another run: known classes keep their logits, new ones begin at nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from samcancer.config import Config, ModelConfig, UniversalConfig
from samcancer.errors import InputError
from samcancer.modeling.build import build_system
from samcancer.modeling.layers import PRIOR_LOGIT
from samcancer.training.checkpoint import CheckpointMeta, save_checkpoint
from samcancer.training.start import start_from

OLD = ("liver_tumor", "lung_tumor", "kidney_tumor")
NEW = ("kidney_tumor", "colon_tumor", "liver_tumor", "lung_tumor", "pancreas_tumor")
PATCH = (16, 16, 32)


def config(head: str = "plain") -> ModelConfig:
    volume = UniversalConfig(backbone="segresnet", width=8, head=head, patch_size=PATCH)
    return ModelConfig(system="universal", universal=volume)


def network(classes: tuple[str, ...], *, head: str = "plain", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_system(config(head), classes).eval()


def saved(
    folder: Path, model: nn.Module, *, head: str = "plain", patients: tuple[str, ...] = ()
) -> Path:
    meta = CheckpointMeta(
        config=Config(model=config(head)), class_names=OLD, training_patients=patients
    )
    save_checkpoint(folder / "best", model, meta)
    return folder


@pytest.mark.parametrize("threads", [1, 2])
def test_a_widened_head_leaves_the_old_classes_logits_unchanged_bit_for_bit(
    tmp_path: Path, threads: int
) -> None:
    before, after = network(OLD), network(NEW, seed=1)
    start_from(after, saved(tmp_path, before), class_names=NEW, held_out=())
    patch = torch.rand(1, *PATCH, generator=torch.Generator().manual_seed(3))
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            old, new = before(patch).mask_logits, after(patch).mask_logits
    finally:
        torch.set_num_threads(usual)
    for k, name in enumerate(OLD):
        assert torch.equal(old[:, :, k], new[:, :, NEW.index(name)])
    for name in set(NEW) - set(OLD):
        added = new[:, :, NEW.index(name)]
        torch.testing.assert_close(added, torch.full_like(added, PRIOR_LOGIT))


def test_learned_class_vectors_go_to_their_new_places(tmp_path: Path) -> None:
    before = network(OLD, head="learned")
    after, fresh = (network(NEW, head="learned", seed=1) for _ in range(2))
    start_from(after, saved(tmp_path, before, head="learned"), class_names=NEW, held_out=())
    vectors = {
        n: m.state_dict()["head.vectors"] for n, m in (("b", before), ("a", after), ("f", fresh))
    }
    for k, name in enumerate(NEW):
        expected = vectors["b"][OLD.index(name)] if name in OLD else vectors["f"][k]
        assert torch.equal(vectors["a"][k], expected)


def test_one_hot_classes_cannot_be_added_to(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(OLD, head="onehot"), head="onehot")
    with pytest.raises(InputError, match="one-hot head cannot be given more classes"):
        start_from(network(NEW, head="onehot"), folder, class_names=NEW, held_out=())


def test_a_model_that_saw_a_held_out_patient_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(OLD), patients=("p1", "p2"))
    with pytest.raises(InputError, match="patients that this run holds out: p2"):
        start_from(network(OLD), folder, class_names=OLD, held_out=("p2", "p9"))


def test_a_class_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(OLD))
    with pytest.raises(InputError, match="knows the class 'kidney_tumor'"):
        start_from(network(OLD[:2]), folder, class_names=OLD[:2], held_out=())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path, network(OLD))
    with pytest.raises(InputError, match="is of another architecture"):
        start_from(network(NEW, head="learned"), folder, class_names=NEW, held_out=())
