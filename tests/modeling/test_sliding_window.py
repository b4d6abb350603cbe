"""Sliding windows: equal to stitching the whole volume at once, in any size and overlap."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from live_memory import peak_bytes
from numpy.typing import NDArray
from torch import Tensor, nn

from samcancer.config import UniversalConfig
from samcancer.inplane import AIR_HU
from samcancer.modeling import predict
from samcancer.modeling.build import build_universal
from samcancer.modeling.outputs import VolumeOutput
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import Member
from samcancer.modeling.sliding_window import layer_bytes, window_starts, window_weights
from samcancer.modeling.universal_net import UniversalNet
from samcancer.resampling import volume_grid
from samcancer.windowing import window

WINDOW_HU = (-200.0, 300.0)
VOXEL_MM = (2.5, 1.2, 1.2)
PATCH = (8, 12, 16)
CLASSES = ("a", "b")


def predict_slices(model: nn.Module, slices_hu: Any, *, window_hu: Any, **options: Any) -> Any:
    return predict.predict_slices(
        model, slices_hu, window_hu=window_hu, options=PredictOptions(**options)
    )


class ToyBackbone(nn.Module):
    stride = 4


class ToyNet(UniversalNet):
    """Looks at neighbours and at where in the patch it is, so that every window matters."""

    def __init__(self, patches: UniversalConfig) -> None:
        super().__init__(CLASSES, patches, backbone=ToyBackbone(), head=nn.Identity())
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, len(CLASSES), 3, padding=1)
        self.place = nn.Parameter(torch.randn(len(CLASSES), *patches.patch_size))
        self.calls = 0

    def forward(self, patch: Tensor) -> VolumeOutput:
        self.calls += 1
        logits = 5 * self.conv(patch.unsqueeze(1)) + self.place
        return VolumeOutput(logits.transpose(1, 2))


def net(spacing_mm: tuple[float, float, float] = (2.0, 1.5, 1.5)) -> ToyNet:
    patches = UniversalConfig(patch_size=PATCH, spacing_mm=spacing_mm)
    return ToyNet(patches).requires_grad_(False)


def padded_slices(count: int, size: int, seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    hu = rng.integers(-300, 400, (count, size, size)).astype(np.int16)
    return np.pad(hu, [(2, 2), (0, 0), (0, 0)], "edge")


def collect(stream: object) -> tuple[Tensor, Tensor]:
    pieces = list(stream)  # type: ignore[call-overload]
    assert [p.start for p in pieces] == [
        sum(len(p.logits) for p in pieces[:i]) for i in range(len(pieces))
    ]
    return torch.cat([p.logits for p in pieces]), torch.cat([p.presence for p in pieces])


def stitched_at_once(model: ToyNet, slices_hu: NDArray[np.int16], overlap: float) -> Tensor:
    """The obvious way: resample everything, add up every window, divide, resample back."""
    volume = slices_hu[2:-2].astype(np.float32) - AIR_HU
    grid = volume_grid(volume.shape, voxel_mm=VOXEL_MM, target_mm=model.patches.spacing_mm)
    forward = [axis.forward() for axis in grid]
    backward = [axis.backward() for axis in grid]
    resampled = np.einsum("ai,bj,ck,ijk->abc", *forward, volume, optimize=True) + AIR_HU
    grey = window(torch.from_numpy(resampled.astype(np.float32)), WINDOW_HU)
    margins = [max(0, length - size) for length, size in zip(PATCH, grey.shape, strict=True)]
    before = [m // 2 for m in margins]
    big = torch.zeros([s + m for s, m in zip(grey.shape, margins, strict=True)])
    inside = tuple(slice(b, b + s) for b, s in zip(before, grey.shape, strict=True))
    big[inside] = grey
    total = torch.zeros(len(CLASSES), *big.shape)
    norm = torch.zeros(big.shape)
    d, h, w = (torch.from_numpy(window_weights(length)) for length in PATCH)
    weight = d[:, None, None] * h[:, None] * w
    starts = [window_starts(s, p, overlap) for s, p in zip(big.shape, PATCH, strict=True)]
    for corner in itertools.product(*starts):
        place = tuple(slice(c, c + p) for c, p in zip(corner, PATCH, strict=True))
        total[(slice(None), *place)] += (
            model(big[place][None]).mask_logits[0].transpose(0, 1) * weight
        )
        norm[place] += weight
    logits = (total / norm)[(slice(None), *inside)].numpy()
    back = np.einsum("ai,bj,ck,nijk->anbc", *backward, logits, optimize=True)
    return torch.from_numpy(back.astype(np.float32))


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize(("size", "overlap"), [(8, 0.5), (24, 0.0), (24, 0.5), (40, 0.3)])
def test_streamed_windows_equal_the_volume_stitched_at_once(
    count: int, size: int, overlap: float
) -> None:
    model = net()
    slices_hu = padded_slices(count, size, seed=count)
    logits, presence = collect(
        predict_slices(
            model, slices_hu, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM, overlap=overlap, batch=3
        )
    )
    expected = stitched_at_once(model, slices_hu, overlap)
    assert logits.shape == (count, len(CLASSES), size, size)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(presence, torch.sigmoid(logits.amax(dim=(-2, -1))))


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.2, 1.2), (5.0, 3.0, 3.0), (2.5, 1.2, 1.2)])
def test_every_slice_comes_once_whatever_the_spacing(
    spacing_mm: tuple[float, float, float],
) -> None:
    logits, _ = collect(
        predict_slices(
            net(spacing_mm), padded_slices(19, 20), window_hu=WINDOW_HU, voxel_mm=VOXEL_MM
        )
    )
    assert len(logits) == 19
    assert torch.isfinite(logits).all()


def test_patches_at_once_do_not_change_the_result() -> None:
    one, many = (
        collect(
            predict_slices(
                net(),
                padded_slices(9, 40),
                window_hu=WINDOW_HU,
                voxel_mm=VOXEL_MM,
                patches_at_once=n,
            )
        )[0]
        for n in (1, 5)
    )
    torch.testing.assert_close(one, many)


def test_the_network_is_asked_once_for_all_patches_of_air() -> None:
    air = np.full((16, 40, 40), -1000, dtype=np.int16)
    model, plain = net(), net()
    skipped, _ = collect(predict_slices(model, air, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM))
    asked, _ = collect(
        predict_slices(plain, air, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM, skip_air=False)
    )
    assert model.calls == 1
    assert plain.calls > 1
    torch.testing.assert_close(skipped, asked)


def test_absent_classes_are_gated_by_their_thresholds() -> None:
    slices_hu = padded_slices(6, 24)
    logits, presence = collect(
        predict_slices(net(), slices_hu, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM)
    )
    thresholds = presence.median(dim=0).values
    gated, _ = collect(
        predict_slices(
            net(), slices_hu, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM, thresholds=thresholds
        )
    )
    absent = presence < thresholds
    assert absent.any()
    assert (gated[absent] < -20).all()
    torch.testing.assert_close(gated[~absent], logits[~absent])


def test_an_ensemble_of_volume_networks_averages_probabilities() -> None:
    slices_hu = padded_slices(11, 24)
    members = [Member(net(), WINDOW_HU), Member(net((1.0, 1.0, 1.0)), (-1000.0, 300.0))]
    both, presence = collect(
        predict.predict_ensemble(members, slices_hu, PredictOptions(voxel_mm=VOXEL_MM))
    )
    alone = [
        collect(predict_slices(m.model, slices_hu, window_hu=m.window_hu, voxel_mm=VOXEL_MM))
        for m in members
    ]
    mean = (torch.sigmoid(alone[0][0]) + torch.sigmoid(alone[1][0])) / 2
    torch.testing.assert_close(torch.sigmoid(both), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, (alone[0][1] + alone[1][1]) / 2)


def test_a_full_gpu_halves_the_patches_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class Crowded(ToyNet):
        def forward(self, patch: Tensor) -> VolumeOutput:
            if len(patch) > 2:
                raise torch.OutOfMemoryError
            return super().forward(patch)

    model = Crowded(net().patches)
    slices_hu = padded_slices(5, 40)
    options = {"window_hu": WINDOW_HU, "voxel_mm": VOXEL_MM}
    found, _ = collect(predict_slices(model, slices_hu, patches_at_once=8, **options))  # type: ignore[arg-type]
    expected, _ = collect(predict_slices(net(), slices_hu, **options))  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    assert "out of memory" in caplog.text


@pytest.mark.parametrize(
    ("size", "length", "overlap", "expected"),
    [
        (10, 10, 0.5, [0]),
        (6, 10, 0.5, [-2]),
        (20, 10, 0.5, [0, 5, 10]),
        (23, 10, 0.5, [0, 5, 10, 13]),
        (20, 10, 0.0, [0, 10]),
    ],
)
def test_windows_cover_an_axis(size: int, length: int, overlap: float, expected: list[int]) -> None:
    assert window_starts(size, length, overlap) == expected


def test_the_memory_of_a_case_is_foretold() -> None:
    """Counted over all live tensors while a case is stitched."""
    config = UniversalConfig(
        backbone="segresnet", width=8, head="learned", patch_size=(16, 32, 32), overlap=0.5
    )
    model = build_universal(config, ["a", "b", "c"]).eval()
    slices_hu = padded_slices(40, 48)

    def run() -> None:
        for _ in predict_slices(model, slices_hu, window_hu=WINDOW_HU, voxel_mm=VOXEL_MM):
            pass

    foretold = layer_bytes(model, (40, 48, 48), VOXEL_MM) + model.patch_bytes
    counted = peak_bytes(run)
    assert 0.8 * counted < foretold < 2 * counted
