"""Points, boxes and masks against segment_anything's own, and that they touch what they are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from samcancer.modeling.manual_prompts import (
    BOX_FIRST,
    BOX_SECOND,
    NEGATIVE,
    NO_POINT,
    POSITIVE,
    ManualPrompts,
    PromptMaps,
    SlicePrompt,
    _maps,
    collate,
)
from samcancer.modeling.predict import predict_slices
from samcancer.modeling.predict_options import PredictOptions

SIZE, CLASSES = 48, 2


def chunk(slices: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(1, slices + 4, SIZE, SIZE, generator=generator)


def box(z: int = 1, class_index: int = 0, **more: object) -> SlicePrompt:
    corners = ((10.0, 12.0, BOX_FIRST), (30.0, 28.0, BOX_SECOND))
    return SlicePrompt(z, class_index, corners, **more)  # type: ignore[arg-type]


def given(*prompts: SlicePrompt, slices: int = 3) -> ManualPrompts:
    manual, _ = collate(prompts, start=0, stop=slices, classes=CLASSES, size=SIZE)
    assert manual is not None
    return manual


@pytest.mark.parametrize("encoder", ["vit_tiny", "small_sam"])
def test_point_tokens_are_those_of_segment_anything(build, official, encoder: str) -> None:
    decoder = build(encoder).decoder
    sam, _ = official(decoder, SIZE)
    points = torch.tensor([[[3.0, 40.0], [11.5, 0.0]], [[10.0, 12.0], [30.0, 28.0]]])
    with torch.no_grad():
        theirs = sam._embed_points(points[:1], torch.tensor([[POSITIVE, NEGATIVE]]), pad=False)
        corners = sam._embed_boxes(points[1:].flatten(1))
        kinds = torch.tensor([[POSITIVE, NEGATIVE], [BOX_FIRST, BOX_SECOND]])
        ours = decoder._point_tokens(points, kinds, size=SIZE)
    torch.testing.assert_close(ours, torch.cat([theirs, corners]), rtol=1e-5, atol=1e-5)


def test_a_mask_takes_the_place_of_no_mask(build, official) -> None:
    decoder = build("small_sam").decoder
    sam, _ = official(decoder, SIZE)
    image, masks = torch.randn(3, 32, 3, 3), torch.full((3, SIZE, SIZE), torch.nan)
    masks[1] = 10.0 * torch.sign(torch.randn(SIZE, SIZE))
    with torch.no_grad():
        without = image + sam.no_mask_embed.weight[:, :, None, None]
        found = decoder._with_masks(without, masks)
        small = F.interpolate(masks[1][None, None], size=(12, 12), mode="bilinear")
        expected = image[1] + sam._embed_masks(small)[0]
    torch.testing.assert_close(found[1], expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[[0, 2]], without[[0, 2]])


@pytest.mark.parametrize("mask", [False, True])
def test_a_prompt_changes_its_own_slice_and_class_only(build, mask: bool) -> None:
    model = build().eval()
    prompt = SlicePrompt(1, 0, mask=np.eye(SIZE, dtype=bool)) if mask else box()
    with torch.no_grad():
        without = model(chunk())
        with_prompt = model(chunk(), None, given(prompt))
    torch.testing.assert_close(with_prompt.presence_logits, without.presence_logits)
    difference = (with_prompt.mask_logits - without.mask_logits).abs().amax(dim=(0, 3, 4))
    assert difference[1, 0] > 1e-3
    difference[1, 0] = 0
    assert difference.max() < 1e-5


def test_a_chunk_with_prompts_gives_what_its_slices_give_one_by_one(build) -> None:
    model = build().eval()
    prompts = (
        box(z=1),
        SlicePrompt(0, 1, ((5.0, 6.0, POSITIVE),)),
        SlicePrompt(2, 0, ((5.0, 6.0, POSITIVE), (20.0, 6.0, NEGATIVE), (9.0, 9.0, POSITIVE))),
        SlicePrompt(2, 1, mask=np.eye(SIZE, dtype=bool)),
    )
    with torch.no_grad():
        whole = model(chunk(), None, given(*prompts)).mask_logits
        for z in range(3):
            manual, _ = collate(prompts, start=z, stop=z + 1, classes=CLASSES, size=SIZE)
            alone = model(chunk()[:, z : z + 5], None, manual).mask_logits
            torch.testing.assert_close(whole[:, z : z + 1], alone, rtol=0, atol=1e-4)


def test_prompts_of_one_slice_and_class_are_put_together() -> None:
    prompts = (box(z=7), SlicePrompt(7, 0, ((1.0, 2.0, POSITIVE),), shows_class=False), box(z=9))
    manual, presence = collate(prompts, start=6, stop=8, classes=CLASSES, size=SIZE)
    assert manual is not None
    assert manual.kinds[0, 1, 0].tolist() == [BOX_FIRST, BOX_SECOND, POSITIVE]
    assert manual.kinds[0, 0].unique().tolist() == [NO_POINT]
    assert manual.masks is None
    assert presence[0, 1, 0] == 1
    assert presence.isnan().sum() == 2 * CLASSES - 1


def test_a_chunk_without_prompts_has_none() -> None:
    manual, presence = collate([box(z=9)], start=0, stop=8, classes=CLASSES, size=SIZE)
    assert manual is None
    assert presence.isnan().all()


def test_the_engine_tells_prompts_chunk_by_chunk_and_trusts_who_is_sure(build) -> None:
    model = build().eval()
    slices_hu = (chunk(slices=5)[0].numpy() * 400 - 100).astype(np.int16)
    prompts = [box(z=3), box(z=4, class_index=1, shows_class=False)]

    def run(batch: int, *, flip: bool = False) -> tuple[Tensor, Tensor]:
        chunks = list(
            predict_slices(
                model,
                slices_hu,
                window_hu=(-100, 300),
                options=PredictOptions(batch=batch, flip=flip, prompts=prompts),
            )
        )
        return torch.cat([c.logits for c in chunks]), torch.cat([c.presence for c in chunks])

    logits, presence = run(5)
    assert presence[3, 0] == 1
    assert (presence == 1).sum() == 1
    for batch in (1, 2):
        other_logits, other_presence = run(batch)
        torch.testing.assert_close(other_logits, logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(other_presence, presence)
    assert run(2, flip=True)[1][3, 0] == 1


def test_prompts_are_drawn_where_they_are() -> None:
    large = ((9.5, 11.5, BOX_FIRST), (12.5, 20.5, BOX_SECOND))
    tiny = ((30.2, 40.2, BOX_FIRST), (30.3, 40.3, BOX_SECOND))
    points = ((40.0, 5.0, POSITIVE), (3.0, 44.0, NEGATIVE))
    manual = given(SlicePrompt(0, 0, (*large, points[0], *tiny, points[1])), slices=1)
    everywhere, boxes, on, off, mask = _maps(manual.points[0, 0], manual.kinds[0, 0], size=SIZE)[0]
    expected = torch.zeros(SIZE, SIZE)
    expected[12:21, 10:13] = 1
    expected[40, 30] = 1
    assert torch.equal(boxes, expected)
    assert everywhere.min() == 1
    assert divmod(int(on.argmax()), SIZE) == (5, 40)
    assert divmod(int(off.argmax()), SIZE) == (44, 3)
    assert not mask.any()
    mirrored = manual.flipped(SIZE)
    again = _maps(mirrored.points[0, 0], mirrored.kinds[0, 0], size=SIZE)[0]
    torch.testing.assert_close(again[1].flip(-1), boxes)
    torch.testing.assert_close(again[2].flip(-1), on)


def test_a_box_counts_the_networks_own_logits_by_their_differences_in_it() -> None:
    manual = given(SlicePrompt(0, 1, ((9.5, 9.5, BOX_FIRST), (19.5, 19.5, BOX_SECOND))), slices=1)
    own = torch.randn(1, CLASSES, SIZE, SIZE) - 20
    changed = PromptMaps(4)(own, torch.zeros(1, 4, SIZE, SIZE), manual.by_slice())
    inside = own[0, 1, 10:20, 10:20]
    torch.testing.assert_close(changed[0, 1, 10:20, 10:20], inside - inside.mean() + 1)
    torch.testing.assert_close(changed[0, 1, 30:, 30:], own[0, 1, 30:, 30:] - 2)
    torch.testing.assert_close(changed[0, 0], own[0, 0])


def test_mirrored_prompts_lie_on_the_mirrored_slice() -> None:
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[3, 5] = True
    manual = given(SlicePrompt(0, 0, ((5.0, 3.0, POSITIVE),), mask), slices=1).flipped(SIZE)
    assert manual.points[0, 0, 0, 0].tolist() == [SIZE - 6, 3]
    assert manual.masks is not None
    assert manual.masks[0, 0, 0].argmax().item() == 3 * SIZE + SIZE - 6
