"""Drawn prompts lie where a person would put them, and are the same for the same random state."""

from __future__ import annotations

import numpy as np
import torch

from samcancer.modeling.manual_prompts import BOX_FIRST, NEGATIVE, NO_POINT, POSITIVE, ManualPrompts
from samcancer.training.drawn_prompts import draw_prompts
from samcancer.training.losses import Targets

SIZE = 40


def targets() -> Targets:
    """Two samples of two slices and two classes; class 1 is nowhere, one slice is empty."""
    labels = torch.zeros(2, 2, 2, SIZE, SIZE)
    labels[0, 0, 0, 10:20, 5:15] = 1
    labels[0, 1, 0, 30:36, 25:29] = 1
    labels[0, 1, 0, 4:7, 25:29] = 1
    labels[1, 0, 0, 8, 8] = 1
    known = torch.ones_like(labels)
    known[0, 1, 0, :, :20] = 0
    return Targets(labels, known, labels.amax(dim=(-2, -1)), torch.ones(2, 2, 2))


def generators(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def many(count: int = 60) -> list[ManualPrompts]:
    drawn = [
        draw_prompts(targets(), share=1.0, rngs=generators(2 * i, 2 * i + 1)) for i in range(count)
    ]
    return [manual for manual in drawn if manual is not None]


def test_every_slice_with_a_lesion_is_prompted_and_no_other() -> None:
    for manual in many():
        prompted = (manual.kinds != NO_POINT).any(dim=-1)
        if manual.masks is not None:
            prompted |= ~manual.masks[..., 0, 0].isnan()
        assert torch.equal(prompted, targets().presence > 0)


def test_points_lie_on_a_lesion_or_known_to_be_beside_it() -> None:
    seen = set()
    for manual in many():
        for place in (manual.kinds != NO_POINT).nonzero().tolist():
            b, t, k, i = place
            kind = int(manual.kinds[b, t, k, i])
            x, y = (round(v) for v in manual.points[b, t, k, i].tolist())
            inside = bool(targets().labels[b, t, k].clamp(0, 1)[min(y, 39), min(x, 39)])
            if kind == POSITIVE:
                assert inside
            elif kind == NEGATIVE:
                assert not inside
                assert targets().known[b, t, k, y, x] == 1
            seen.add(kind)
    assert seen == {0, 1, 2, 3}


def test_boxes_are_the_lesions_give_or_take_a_fifth() -> None:
    found = 0
    for manual in many():
        if manual.kinds[0, 0, 0, 0] != BOX_FIRST:
            continue
        (x0, y0), (x1, y1) = manual.points[0, 0, 0, :2].tolist()
        for value, tight in zip((x0, y0, x1, y1), (4.5, 9.5, 14.5, 19.5), strict=True):
            assert abs(value - tight) <= 0.2 * 10 + 1e-4
        found += 1
    assert found > 5


def test_rough_masks_are_a_few_pixels_off_and_never_empty() -> None:
    areas = set()
    for manual in many():
        if manual.masks is not None and not manual.masks[0, 0, 0, 0, 0].isnan():
            area = int((manual.masks[0, 0, 0] > 0).sum())
            assert 4 * 4 <= area <= 16 * 16
            areas.add(area)
    assert min(areas) < 100 < max(areas)


def test_the_same_seeds_draw_the_same() -> None:
    one, other = many(5), many(5)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a.points.numpy(), b.points.numpy())
        np.testing.assert_array_equal(a.kinds.numpy(), b.kinds.numpy())


def test_a_sample_is_given_the_same_prompts_in_any_batch() -> None:
    both, seeds = targets(), (3, 8)
    whole = draw_prompts(both, share=1.0, rngs=generators(*seeds))
    assert whole is not None
    for b, seed in enumerate(seeds):
        own = Targets(*(part[b : b + 1] for part in both))
        alone = draw_prompts(own, share=1.0, rngs=generators(seed))
        assert alone is not None
        given = alone.kinds != NO_POINT
        count = given.shape[-1]
        assert torch.equal(given[0], (whole.kinds[b] != NO_POINT)[..., :count])
        assert torch.equal(alone.points[0][given[0]], whole.points[b][..., :count, :][given[0]])


def test_a_share_of_zero_draws_nothing_and_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    assert draw_prompts(targets(), share=0.0, rngs=generators(0, 1)) is None
    draw_prompts(targets(), share=1.0, rngs=generators(0, 1))
    assert torch.equal(torch.get_rng_state(), state)


def test_where_no_lesion_is_there_is_no_prompt() -> None:
    empty = targets()._replace(presence=torch.zeros(2, 2, 2))
    assert draw_prompts(empty, share=1.0, rngs=generators(0, 1)) is None
