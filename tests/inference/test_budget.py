"""The memory a scan takes is known before it is taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from inference_fakes import WINDOW_HU, ThresholdNet

from samcancer.config import UniversalConfig
from samcancer.errors import InputError
from samcancer.inference.budget import (
    DEFAULT_BATCH,
    MAX_BATCH,
    MemoryNeed,
    cap_gpu_memory,
    memory_need,
    parse_bytes,
    plan_batch,
)
from samcancer.modeling.build import build_universal
from samcancer.modeling.slice_prediction import Member
from samcancer.modeling.universal_net import UniversalNet

NEED = MemoryNeed(fixed=1000, per_slice=100)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("1.5gb", 1500000000), ("700B", 700)],
)
def test_a_size_is_read(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "4", "GB", "-1GB", "4 TB", "4GB of it", "1e9B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a size.*like 4GB or 512MiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("budget", "slices"), [(1100, 1), (1199, 1), (1200, 2), (2000, 10), (10**9, MAX_BATCH)]
)
def test_a_chunk_is_as_long_as_the_budget_allows(budget: int, slices: int) -> None:
    assert plan_batch(NEED, budget_bytes=budget, device="cpu") == slices
    assert NEED.of(slices) <= budget


def test_without_a_budget_the_device_decides() -> None:
    for device, batch in DEFAULT_BATCH.items():
        assert plan_batch(NEED, budget_bytes=None, device=device) == batch


def test_a_budget_that_holds_no_slice_is_refused_with_the_least_that_would() -> None:
    need = MemoryNeed(fixed=10**9, per_slice=10**8)
    with pytest.raises(InputError, match=r"1000 MB is too small.*at least --budget 1100MB"):
        plan_batch(need, budget_bytes=10**9, device="cpu")


def test_a_scan_and_its_maps_count_on_the_host_only() -> None:
    net, shape = ThresholdNet((200.0,)), (50, 40, 30)
    host, gpu = (
        memory_need(
            [Member(net, WINDOW_HU)],
            shape,
            size=32,
            class_count=1,
            label_maps=2,
            views=1,
            device=device,
            voxel_mm=(2.0, 1.0, 1.0),
        )
        for device in ("cpu", "cuda")
    )
    assert gpu.fixed == net.levels.nbytes
    assert host.fixed - gpu.fixed == np.prod(shape) * (2 + 2)  # int16 scan, two uint8 maps
    assert host.per_slice == gpu.per_slice


def test_the_gpu_is_capped_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    capped: list[float] = []
    properties = type("Properties", (), {"total_memory": 16 * 10**9})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", capped.append)
    for gigabytes in (4, 32):
        cap_gpu_memory(gigabytes * 10**9)
    assert capped == [0.25, 1.0]


def volume_network() -> UniversalNet:
    config = UniversalConfig(
        backbone="segresnet", width=8, head="learned", patch_size=(16, 32, 32), overlap=0.5
    )
    return build_universal(config, ["a", "b", "c"]).eval()


def test_a_budget_takes_fewer_patches_at_once() -> None:
    net = volume_network()
    arguments = {
        "size": 48,
        "class_count": 3,
        "label_maps": 1,
        "views": 1,
        "device": "cpu",
        "voxel_mm": (2.0, 1.5, 1.5),
    }
    one, four = (
        memory_need([Member(net, WINDOW_HU)], (40, 48, 48), patches_at_once=n, **arguments)  # type: ignore[arg-type]
        for n in (1, 4)
    )
    assert four.fixed - one.fixed == 3 * net.patch_bytes
