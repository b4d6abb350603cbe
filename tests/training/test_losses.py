from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from samcancer.config import ModelConfig, TrainConfig
from samcancer.data.dataset import unpack_bits
from samcancer.modeling import build_model
from samcancer.modeling.outputs import NetOutput, PresenceOutput, VolumeOutput
from samcancer.training.losses import Targets, loss_of, masked_loss, volume_loss

CONFIG = TrainConfig(dice_weight=1, bce_weight=1, presence_weight=1, lesion_weight=1)
SHAPE = (2, 3, 4, 6, 5)
"""B, T, K, rows, columns."""


def targets(labels: Tensor, known: Tensor | None = None) -> Targets:
    known = torch.ones_like(labels) if known is None else known
    return Targets(labels, known, labels.amax(dim=(-2, -1)), known.amin(dim=(-2, -1)))


def block_labels() -> Tensor:
    """Class 0 in one slice, class 2 in another, the rest empty."""
    labels = torch.zeros(SHAPE)
    labels[0, 1, 0, 1:3, 2:5] = 1
    labels[1, 2, 2, 4, 0] = 1
    return labels


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randn(SHAPE, generator=generator).requires_grad_()
    presence = torch.randn(SHAPE[:3], generator=generator).requires_grad_()
    return mask, presence


def test_gradient_of_an_unknown_class_is_exactly_zero() -> None:
    known = torch.ones(SHAPE)
    known[0, :, 1:3] = 0
    mask, presence = logits()
    masked_loss(mask, presence, targets(block_labels(), known), CONFIG).total.backward()
    assert mask.grad is not None
    assert presence.grad is not None
    assert torch.count_nonzero(mask.grad[0, :, 1:3]) == 0
    assert torch.count_nonzero(presence.grad[0, :, 1:3]) == 0
    assert torch.all(mask.grad[1] != 0)
    assert torch.all(presence.grad[1] != 0)


def test_gradient_of_unknown_voxels_of_a_pseudo_labelled_class_is_exactly_zero() -> None:
    known = torch.ones(SHAPE)
    known[0, 1, 0, 0] = 0
    mask, presence = logits()
    masked_loss(mask, presence, targets(block_labels(), known), CONFIG).total.backward()
    assert mask.grad is not None
    assert torch.count_nonzero(mask.grad[0, 1, 0, 0]) == 0
    assert torch.all(mask.grad[0, 1, 0, 1:] != 0)


def test_loss_does_not_depend_on_logits_of_unknown_classes() -> None:
    known = torch.ones(SHAPE)
    known[:, :, 3] = 0
    mask, presence = logits()
    other = mask.detach().clone()
    other[:, :, 3] = 1000
    before = masked_loss(mask, presence, targets(block_labels(), known), CONFIG)
    after = masked_loss(other, presence, targets(block_labels(), known), CONFIG)
    assert float(before.total.detach()) == float(after.total.detach())


def test_unknown_classes_do_not_change_the_scale_of_the_loss() -> None:
    one = torch.full((1, 1, 1, 4, 4), 0.3)
    labels = torch.zeros_like(one)
    alone = masked_loss(one, torch.zeros(1, 1, 1), targets(labels), CONFIG)
    known = torch.zeros(1, 1, 9, 4, 4)
    known[:, :, 4] = 1
    among_nine = masked_loss(
        one.expand(1, 1, 9, 4, 4),
        torch.zeros(1, 1, 9),
        targets(torch.zeros(1, 1, 9, 4, 4), known),
        CONFIG,
    )
    assert float(among_nine.bce) == pytest.approx(float(alone.bce))
    assert float(among_nine.presence) == pytest.approx(float(alone.presence))


def test_an_all_healthy_batch_has_no_dice_loss_but_a_gradient_from_cross_entropy() -> None:
    mask, presence = logits()
    parts = masked_loss(mask, presence, targets(torch.zeros(SHAPE)), CONFIG)
    parts.total.backward()
    assert float(parts.dice.detach()) == 0
    assert mask.grad is not None
    assert torch.all(mask.grad > 0)


def test_a_batch_in_which_nothing_is_known_gives_zero_loss_and_zero_gradient() -> None:
    mask, presence = logits()
    nothing = targets(torch.zeros(SHAPE), torch.zeros(SHAPE))
    parts = masked_loss(mask, presence, nothing, CONFIG)
    parts.total.backward()
    assert float(parts.total.detach()) == 0
    assert mask.grad is not None
    assert torch.count_nonzero(mask.grad) == 0


def test_dice_of_a_known_overlap_has_the_derived_value() -> None:
    # probability 0.5 in all 30 voxels, 6 labelled: Dice = 2 * 3 / (15 + 6)
    labels = torch.zeros(1, 1, 1, 6, 5)
    labels[0, 0, 0, 1:3, 2:5] = 1
    parts = masked_loss(torch.zeros_like(labels), torch.zeros(1, 1, 1), targets(labels), CONFIG)
    assert float(parts.dice) == pytest.approx(1 - 6 / 21)
    assert float(parts.bce) == pytest.approx(math.log(2))
    assert parts.class_dice.tolist() == [[pytest.approx(6 / 21)], [1.0]]


def test_lesion_voxels_weigh_more_in_the_cross_entropy() -> None:
    labels = torch.zeros(1, 1, 1, 6, 5)
    labels[0, 0, 0, 1:3, 2:5] = 1
    known = torch.ones_like(labels)
    known[..., 0] = 0
    # probability 0.2 everywhere: 6 lesion voxels of weight 10 and 18 known ones of background
    logit = math.log(0.2 / 0.8)
    config = dataclasses.replace(CONFIG, lesion_weight=10)
    parts = masked_loss(
        torch.full_like(labels, logit), torch.zeros(1, 1, 1), targets(labels, known), config
    )
    expected = -(60 * math.log(0.2) + 18 * math.log(0.8)) / 78
    assert float(parts.bce) == pytest.approx(expected)


def test_dice_is_a_mean_over_the_slices_that_show_the_class_only() -> None:
    labels = torch.zeros(2, 2, 1, 4, 4)
    labels[0, 0, 0, :2] = 1
    perfect = torch.where(labels > 0, 40.0, -40.0)
    one_slice = masked_loss(perfect, torch.zeros(2, 2, 1), targets(labels), CONFIG)
    assert float(one_slice.dice) == pytest.approx(0, abs=1e-6)
    wrong = torch.where(labels > 0, -40.0, -40.0)
    # nothing predicted: Dice 0, however small the lesion
    missed = masked_loss(wrong, torch.zeros(2, 2, 1), targets(labels), CONFIG)
    assert float(missed.dice) == pytest.approx(1)


def test_extreme_logits_give_finite_loss_and_gradient() -> None:
    labels = block_labels()
    mask = torch.where(labels > 0, -1e4, 1e4).requires_grad_()
    presence = torch.full(SHAPE[:3], 1e4).requires_grad_()
    parts = masked_loss(mask, presence, targets(labels), CONFIG)
    parts.total.backward()
    assert math.isfinite(float(parts.total.detach()))
    assert mask.grad is not None
    assert torch.isfinite(mask.grad).all()


def test_loss_of_half_precision_logits_is_computed_in_float32() -> None:
    mask, presence = logits()
    parts = masked_loss(
        mask.to(torch.bfloat16), presence.to(torch.bfloat16), targets(block_labels()), CONFIG
    )
    assert parts.total.dtype == torch.float32


def test_teacher_presence_is_nan_where_unknown() -> None:
    known = torch.ones(SHAPE)
    known[0, :, 3] = 0
    teacher = targets(block_labels(), known).teacher_presence()
    assert torch.isnan(teacher[0, :, 3]).all()
    assert teacher[0, 1, 0] == 1
    assert teacher[1, 1, 0] == 0
    assert int(torch.isnan(teacher).sum()) == SHAPE[1]


def test_a_share_of_absences_is_told_as_presence_and_no_presence_as_absence() -> None:
    shape = (50, 20, 2, 1, 1)
    labels, known = torch.zeros(shape), torch.ones(shape)
    labels[:, :, 1] = 1
    known[0, :, 0] = 0
    told = targets(labels, known).teacher_presence(
        false_share=0.3, rngs=[np.random.default_rng(seed) for seed in range(50)]
    )
    assert torch.isnan(told[0, :, 0]).all()
    assert 0.25 < float(told[1:, :, 0].mean()) < 0.35
    assert (told[:, :, 1] == 1).all()


def test_coarse_masks_are_held_to_the_labels_below_their_pixels() -> None:
    labels = torch.zeros(1, 1, 1, 4, 6)
    labels[..., 1, 1] = 1
    known = torch.ones_like(labels)
    known[..., 0, 0] = 0  # beside the lesion: the coarse pixel is lesion all the same
    known[..., 3, 3] = 0  # no lesion near: the coarse pixel is unknown
    coarse = targets(labels, known).coarsened(torch.Size([2, 3]))
    assert coarse.labels[0, 0, 0].tolist() == [[1, 0, 0], [0, 0, 0]]
    assert coarse.known[0, 0, 0].tolist() == [[1, 1, 1], [1, 0, 1]]
    logits = torch.zeros(1, 1, 1, 2, 3, requires_grad=True)
    parts = masked_loss(
        torch.zeros_like(labels),
        torch.zeros(1, 1, 1),
        targets(labels, known),
        CONFIG,
        coarse_logits=logits,
    )
    # probability 0.5 in five known pixels, one of them lesion: Dice = 2 * 0.5 / (2.5 + 1)
    assert float(parts.coarse.detach()) == pytest.approx(1 - 1 / 3.5 + math.log(2))
    parts.total.backward()
    assert (logits.grad != 0)[0, 0, 0].tolist() == [[True] * 3, [True, False, True]]


@pytest.mark.parametrize("bit", [0, 7, 30, 31])
def test_bits_are_spread_to_their_class(bit: int) -> None:
    bits = torch.zeros(1, 2, 3, 3, dtype=torch.int32)
    bits[0, 1, 2, 0] = torch.tensor(1 << bit, dtype=torch.int64).to(torch.int32)
    spread = unpack_bits(bits, 32)
    assert spread.shape == (1, 2, 32, 3, 3)
    assert spread.nonzero().tolist() == [[0, 1, bit, 2, 0]]


def test_parameters_of_an_unknown_class_get_no_gradient_in_the_real_network() -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(image_size=32, cnn_width=8), tuple("abcdefg"))
    labels = torch.zeros(1, 1, 7, 32, 32)
    labels[0, 0, 0, 8:16, 4:12] = 1
    known = torch.ones_like(labels)
    known[:, :, 1] = 0
    what = targets(labels, known)
    output = model(torch.rand(1, 5, 32, 32), what.teacher_presence())
    masked_loss(
        output.mask_logits,
        output.presence_logits,
        what,
        CONFIG,
        coarse_logits=output.coarse_logits,
    ).total.backward()
    own = per_class_gradients(model, class_count=7)
    assert own, "the network should have parameters with one row per class"
    for name, gradient in own.items():
        assert torch.count_nonzero(gradient[1]) == 0, name
        assert torch.count_nonzero(gradient[0]) > 0, name


def per_class_gradients(model: torch.nn.Module, *, class_count: int) -> dict[str, Tensor]:
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.shape[:1] == (class_count,)
    }


def test_an_empty_mask_is_not_rewarded_for_a_lesion_of_one_voxel() -> None:
    labels = torch.zeros(1, 1, 1, 8, 8)
    labels[0, 0, 0, 3, 4] = 1
    logits = torch.full_like(labels, -4.0).requires_grad_()
    parts = masked_loss(logits, torch.zeros(1, 1, 1), targets(labels), CONFIG)
    parts.dice.backward()
    p = 1 / (1 + math.exp(4))
    sizes = 64 * p + 1
    assert float(parts.dice.detach()) == pytest.approx(1 - 2 * p / sizes)
    # d(1 - Dice)/d(logit) of the lesion voxel, by hand
    slope = -(2 / sizes - 2 * p / sizes**2) * p * (1 - p)
    assert logits.grad is not None
    assert float(logits.grad[0, 0, 0, 3, 4]) == pytest.approx(slope, rel=1e-4)


def obvious_patch_dice(mask: Tensor, labels: Tensor, known: Tensor) -> float:
    """Mean Dice loss over the patches and classes with a labelled voxel, one by one."""
    losses = []
    for b in range(mask.shape[0]):
        for k in range(mask.shape[2]):
            truth = labels[b, :, k]
            if truth.any():
                p = torch.sigmoid(mask[b, :, k]) * known[b, :, k]
                losses.append(1 - 2 * float((p * truth).sum()) / float(p.sum() + truth.sum()))
    return sum(losses) / len(losses)


def test_a_patch_has_one_dice_a_class_however_many_slices_show_it() -> None:
    labels, known = block_labels(), torch.ones(SHAPE)
    labels[0, 2, 0, 3, 3] = 1  # class 0 in a second slice of the first patch
    known[1, 0, 2] = 0
    mask, _ = logits()
    parts = volume_loss(mask, targets(labels, known), CONFIG)
    assert float(parts.dice.detach()) == pytest.approx(
        obvious_patch_dice(mask.detach(), labels, known)
    )
    assert parts.class_dice[1].tolist() == [1, 0, 1, 0]
    assert float(parts.presence) == float(parts.coarse) == 0


def test_unknown_voxels_of_a_patch_have_no_gradient() -> None:
    known = torch.ones(SHAPE)
    known[0, :, 1:3] = 0
    mask, _ = logits()
    volume_loss(mask, targets(block_labels(), known), CONFIG).total.backward()
    assert mask.grad is not None
    assert torch.count_nonzero(mask.grad[0, :, 1:3]) == 0
    assert torch.all(mask.grad[1] != 0)


def test_a_slice_classifier_learns_from_known_presence_alone() -> None:
    known = torch.ones(SHAPE)
    known[0, :, 1:3] = 0
    _, presence = logits()
    parts = loss_of(PresenceOutput(presence), targets(block_labels(), known), CONFIG)
    parts.total.backward()
    assert presence.grad is not None
    assert torch.count_nonzero(presence.grad[0, :, 1:3]) == 0
    assert torch.all(presence.grad[1] != 0)
    assert float(parts.total.detach()) == float(parts.presence.detach()) > 0


def test_each_kind_of_output_has_its_loss() -> None:
    mask, presence = logits()
    wanted = targets(block_labels())
    both = loss_of(NetOutput(mask, presence), wanted, CONFIG)
    assert torch.equal(both.total, masked_loss(mask, presence, wanted, CONFIG).total)
    volume = loss_of(VolumeOutput(mask), wanted, CONFIG)
    assert torch.equal(volume.total, volume_loss(mask, wanted, CONFIG).total)
