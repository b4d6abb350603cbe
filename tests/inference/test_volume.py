from __future__ import annotations

import numpy as np
import pytest
import torch
from inference_fakes import WINDOW_HU, Output, ThresholdNet
from torch import Tensor

from samcancer.inference.budget import memory_need
from samcancer.inference.slices import ResizedSlices
from samcancer.inference.volume import EngineOptions, LabelMaps, predict_volume
from samcancer.inplane import InPlaneGrid, resize_slices
from samcancer.modeling.slice_prediction import Member

GRID = InPlaneGrid(rows=30, columns=40, row_spacing_mm=0.8, column_spacing_mm=0.6, size=32)


def scan(slice_count: int = 6) -> np.ndarray:
    """Body of 0 HU with a bright box of 400 HU and, inside it, a brighter one of 900 HU."""
    volume = np.full((slice_count, GRID.rows, GRID.columns), 0, dtype=np.int16)
    volume[2:5, 6:22, 8:30] = 400
    volume[3:4, 10:16, 14:22] = 900
    return volume


def maps(volume: np.ndarray, *, organs: bool = False, probabilities: int = 0) -> LabelMaps:
    return LabelMaps(
        lesions=np.zeros(volume.shape, np.uint8),
        organs=np.zeros(volume.shape, np.uint8) if organs else None,
        probabilities=[np.zeros(volume.shape, np.float16) for _ in range(probabilities)],
    )


def predict(
    net: torch.nn.Module,
    volume: np.ndarray,
    out: LabelMaps,
    is_lesion: tuple[bool, ...],
    thresholds: tuple[float, ...] | None = None,
    mask_thresholds: tuple[float, ...] | None = None,
    **options: object,
) -> np.ndarray:
    return predict_volume(
        [Member(net, WINDOW_HU)],
        volume,
        grid=GRID,
        slice_mm=2.0,
        is_lesion=is_lesion,
        thresholds=torch.tensor(thresholds or (0.0,) * len(is_lesion)),
        mask_thresholds=None if mask_thresholds is None else torch.tensor(mask_thresholds),
        maps=out,
        options=EngineOptions(**options),  # type: ignore[arg-type]
    )


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_the_mask_lies_where_the_scan_says_on_its_own_pixels() -> None:
    volume, out = scan(), maps(scan())
    predict(ThresholdNet((200.0,)), volume, out, (True,))
    assert dice(out.lesions > 0, volume > 200) > 0.95
    assert not out.lesions[[0, 1, 5]].any()


def test_between_lesions_the_more_probable_one_wins() -> None:
    volume, out = scan(), maps(scan())

    class Rivals(ThresholdNet):
        def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
            output = super().forward(chunk)
            logits = output.mask_logits * torch.tensor([1.0, 10.0])[:, None, None]
            return Output(logits, output.presence_logits)

    predict(Rivals((200.0, 650.0)), volume, out, (True, True))
    # 10 (x - 650) > x - 200 from x = 700 on: the brightest box alone goes to the second class.
    assert dice(out.lesions == 2, volume == 900) > 0.9
    assert dice(out.lesions > 0, volume > 200) > 0.95


def test_a_tie_goes_to_the_first_class() -> None:
    volume, out = scan(), maps(scan())
    predict(ThresholdNet((200.0, 200.0)), volume, out, (True, True))
    assert set(np.unique(out.lesions)) == {0, 1}


def test_a_voxel_goes_to_the_most_probable_class_among_those_above_their_threshold() -> None:
    volume, out = scan(), maps(scan())
    # Both classes have the logit 20 (HU - 200) / 2000: 2 in the outer box, 7 in the inner one.
    predict(ThresholdNet((200.0, 200.0)), volume, out, (True, True), mask_thresholds=(4.0, 1.0))
    assert dice(out.lesions == 1, volume == 900) > 0.9
    assert dice(out.lesions == 2, volume == 400) > 0.9


def test_half_of_the_probability_is_the_threshold_where_none_is_given() -> None:
    volume, plain, same = scan(), maps(scan()), maps(scan())
    predict(ThresholdNet((200.0, 650.0)), volume, plain, (True, True))
    predict(ThresholdNet((200.0, 650.0)), volume, same, (True, True), mask_thresholds=(0.0, 0.0))
    np.testing.assert_array_equal(plain.lesions, same.lesions)


def test_a_threshold_that_nothing_exceeds_leaves_the_mask_empty() -> None:
    volume, out = scan(), maps(scan())
    predict(ThresholdNet((200.0,)), volume, out, (True,), mask_thresholds=(20.0,))
    assert not out.lesions.any()


def test_organs_go_to_their_own_map_whole() -> None:
    volume, out = scan(), maps(scan(), organs=True)
    predict(ThresholdNet((200.0, 650.0)), volume, out, (False, True))
    assert out.organs is not None
    assert set(np.unique(out.organs)) == {0, 1}
    assert set(np.unique(out.lesions)) == {0, 2}
    assert dice(out.organs > 0, volume > 200) > 0.95


def test_a_class_under_its_presence_threshold_leaves_the_slice_empty() -> None:
    volume, out = scan(), maps(scan())
    volume[2, 6:22, 8:30] = 210
    presence = predict(ThresholdNet((200.0,)), volume, out, (True,), thresholds=(0.6,))
    assert presence[2, 0] < 0.6 < presence[3, 0]
    assert not out.lesions[2].any()
    assert out.lesions[3].any()


def test_probabilities_are_not_gated_and_agree_with_the_mask() -> None:
    volume, out = scan(), maps(scan(), probabilities=1)
    predict(ThresholdNet((200.0,)), volume, out, (True,), thresholds=(0.999,))
    ungated = maps(volume)
    predict(ThresholdNet((200.0,)), volume, ungated, (True,))
    np.testing.assert_array_equal(out.probabilities[0] > 0.5, ungated.lesions > 0)


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_chunk_length_and_slice_count_do_not_change_the_mask(batch: int) -> None:
    for slice_count in (1, 2, 6):
        volume = scan()[:slice_count]
        out, expected = maps(volume), maps(volume)
        predict(ThresholdNet((200.0,)), volume, out, (True,), batch=batch)
        predict(ThresholdNet((200.0,)), volume, expected, (True,), batch=100)
        np.testing.assert_array_equal(out.lesions, expected.lesions)


def test_mirroring_a_mirror_symmetric_network_changes_nothing() -> None:
    volume, plain, averaged = scan(), maps(scan()), maps(scan())
    predict(ThresholdNet((200.0,)), volume, plain, (True,))
    predict(ThresholdNet((200.0,)), volume, averaged, (True,), flip=True)
    np.testing.assert_array_equal(plain.lesions, averaged.lesions)


def test_slices_done_are_told() -> None:
    told: list[int] = []
    predict_volume(
        [Member(ThresholdNet((200.0,)), WINDOW_HU)],
        scan(),
        grid=GRID,
        slice_mm=2.0,
        is_lesion=(True,),
        thresholds=torch.zeros(1),
        maps=maps(scan()),
        options=EngineOptions(batch=4),
        on_slices=told.append,
    )
    assert told == [4, 2]


@pytest.mark.parametrize("slice_count", [1, 2, 5])
def test_lazily_resized_slices_are_the_resized_scan_with_its_ends_repeated(
    slice_count: int,
) -> None:
    volume = np.random.default_rng(1).integers(-1000, 900, (slice_count, 30, 40)).astype(np.int16)
    lazy = ResizedSlices(volume, GRID)
    whole = np.pad(resize_slices(volume, GRID), ((2, 2), (0, 0), (0, 0)), mode="edge")
    assert lazy.shape == whole.shape
    for start in range(len(whole)):
        for stop in range(start + 1, len(whole) + 1):
            np.testing.assert_array_equal(lazy[start:stop], whole[start:stop])


def test_slices_resized_on_the_device_are_those_of_the_host_to_a_rounding() -> None:
    volume = np.random.default_rng(1).integers(-1000, 900, (7, 30, 40)).astype(np.int16)
    host, device = ResizedSlices(volume, GRID), ResizedSlices(volume, GRID, on_device="cpu")
    for start, stop in ((0, 4), (2, 9), (7, 11)):
        difference = device[start:stop].int() - host[start:stop].int()
        assert difference.abs().max() <= 1
        assert (difference != 0).float().mean() < 0.01


def test_a_budget_decides_the_length_of_a_chunk() -> None:
    told: list[int] = []
    need = memory_need(
        [Member(ThresholdNet((200.0,)), WINDOW_HU)],
        scan().shape,
        size=GRID.size,
        class_count=1,
        label_maps=1,
        views=1,
        device="cpu",
        voxel_mm=(2.0, 1.0, 1.0),
    )
    predict_volume(
        [Member(ThresholdNet((200.0,)), WINDOW_HU)],
        scan(),
        grid=GRID,
        slice_mm=2.0,
        is_lesion=(True,),
        thresholds=torch.zeros(1),
        maps=maps(scan()),
        options=EngineOptions(budget_bytes=need.of(5)),
        on_slices=told.append,
    )
    assert told == [5, 1]
