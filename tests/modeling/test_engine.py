from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.modeling import SamCancerNet, build_model, predict
from samcancer.modeling.layers import ABSENT_LOGIT
from samcancer.modeling.predict_options import PredictOptions
from samcancer.modeling.slice_prediction import Member, gate_logits, threshold_vector


def predict_slices(model: nn.Module, slices_hu: Any, *, window_hu: Any, **options: Any) -> Any:
    return predict.predict_slices(
        model, slices_hu, window_hu=window_hu, options=PredictOptions(**options)
    )


def predict_ensemble(members: Any, slices_hu: Any, **options: Any) -> Any:
    return predict.predict_ensemble(members, slices_hu, PredictOptions(**options))


CLASSES = ("first", "second", "third")
WINDOW_HU = (-200.0, 300.0)


class Output:
    def __init__(self, mask_logits: Tensor, presence_logits: Tensor) -> None:
        self.mask_logits = mask_logits
        self.presence_logits = presence_logits


class ToyNet(nn.Module):
    """Two z-valid convolutions, K classes; left-right asymmetric, counts its calls."""

    class_names = CLASSES
    slice_context = 2

    def __init__(self, *, seed: int = 0, largest_chunk: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv3d(1, 4, 3, padding=(0, 1, 1))
            self.second = nn.Conv3d(4, len(CLASSES), 3, padding=(0, 1, 1))
        self.largest_chunk = largest_chunk
        self.targets_seen: list[int] = []

    def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
        targets = chunk.shape[1] - 4
        self.targets_seen.append(targets)
        if self.largest_chunk is not None and targets > self.largest_chunk:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        logits = self.second(torch.relu(self.first(chunk[:, None])))  # (B, K, T, S, S)
        logits = logits.movedim(1, 2)
        return Output(logits, logits.mean(dim=(-1, -2)))


def padded_slices(slice_count: int, size: int = 12) -> np.ndarray:
    generator = np.random.default_rng(slice_count)
    slices = generator.integers(-1024, 1500, (slice_count, size, size)).astype(np.int16)
    return np.pad(slices, ((2, 2), (0, 0), (0, 0)), mode="edge")


def collect(chunks: object) -> tuple[Tensor, Tensor]:
    parts = list(chunks)  # type: ignore[call-overload]
    starts = [part.start for part in parts]
    assert starts == list(np.cumsum([0, *[len(part.logits) for part in parts[:-1]]]))
    return torch.cat([p.logits for p in parts]), torch.cat([p.presence for p in parts])


def stack_by_stack(model: nn.Module, slices_hu: np.ndarray) -> tuple[Tensor, Tensor]:
    logits, presence = [], []
    for z in range(len(slices_hu) - 4):
        stack = torch.from_numpy(slices_hu[z : z + 5].astype(np.float32))
        low, high = WINDOW_HU
        stack = ((stack - low) / (high - low)).clamp(0, 1)
        with torch.inference_mode():
            output = model(stack[None])
        logits.append(output.mask_logits[0])
        presence.append(torch.sigmoid(output.presence_logits[0]))
    return torch.cat(logits), torch.cat(presence)


@pytest.mark.parametrize("slice_count", [1, 2, 3, 4, 5, 7, 11])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 100])
def test_any_chunk_length_gives_the_same_as_stack_by_stack(slice_count: int, batch: int) -> None:
    model, slices_hu = ToyNet(), padded_slices(slice_count)
    logits, presence = collect(predict_slices(model, slices_hu, window_hu=WINDOW_HU, batch=batch))
    expected_logits, expected_presence = stack_by_stack(model, slices_hu)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, expected_presence, atol=1e-5, rtol=0)


def test_every_slice_is_a_target_once() -> None:
    model = ToyNet()
    collect(predict_slices(model, padded_slices(10), window_hu=WINDOW_HU, batch=4))
    assert model.targets_seen == [4, 4, 2]


def test_only_the_slices_of_the_chunk_are_read() -> None:
    class Lazy:
        shape = (14, 12, 12)

        def __init__(self) -> None:
            self.lengths: list[int] = []

        def __getitem__(self, index: slice) -> np.ndarray:
            self.lengths.append(index.stop - index.start)
            return padded_slices(10)[index]

    lazy = Lazy()
    lazy_result = collect(predict_slices(ToyNet(), lazy, window_hu=WINDOW_HU, batch=4))
    array_result = collect(
        predict_slices(ToyNet(), padded_slices(10), window_hu=WINDOW_HU, batch=4)
    )
    assert max(lazy.lengths) == 4 + 4
    assert torch.equal(lazy_result[0], array_result[0])


@pytest.mark.parametrize("largest_chunk", [1, 2, 3, 5])
def test_a_full_gpu_halves_the_chunk_and_gives_the_same_result(largest_chunk: int) -> None:
    slices_hu = padded_slices(11)
    model = ToyNet(largest_chunk=largest_chunk)
    logits, presence = collect(predict_slices(model, slices_hu, window_hu=WINDOW_HU, batch=8))
    expected_logits, expected_presence = stack_by_stack(ToyNet(), slices_hu)
    torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, expected_presence, atol=1e-5, rtol=0)


def test_once_halved_the_chunk_stays_small() -> None:
    model = ToyNet(largest_chunk=2)
    collect(predict_slices(model, padded_slices(9), window_hu=WINDOW_HU, batch=8))
    assert model.targets_seen == [8, 4, 2, 2, 2, 2, 1]


def test_a_gpu_too_small_for_one_slice_is_an_input_error() -> None:
    model = ToyNet(largest_chunk=0)
    with pytest.raises(InputError, match=r"too little memory for a single slice.*--device cpu"):
        collect(predict_slices(model, padded_slices(3), window_hu=WINDOW_HU))


def test_other_errors_of_the_network_are_not_caught() -> None:
    class Broken(ToyNet):
        def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        collect(predict_slices(Broken(), padded_slices(3), window_hu=WINDOW_HU))


def test_mirroring_averages_the_probabilities_of_both_views() -> None:
    model, slices_hu = ToyNet(), padded_slices(3)
    logits, presence = collect(
        predict_slices(model, slices_hu, window_hu=WINDOW_HU, batch=2, flip=True)
    )
    plain, plain_presence = stack_by_stack(model, slices_hu)
    mirrored, mirrored_presence = stack_by_stack(model, slices_hu[:, :, ::-1].copy())
    mean = (torch.sigmoid(plain) + torch.sigmoid(mirrored.flip(-1))) / 2
    torch.testing.assert_close(torch.sigmoid(logits), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, (plain_presence + mirrored_presence) / 2)


def test_in_a_mirror_a_class_is_its_other_side() -> None:
    """A mirrored right kidney looks like a left one: classes 0 and 2 change places."""
    model, slices_hu, sides = ToyNet(), padded_slices(3), [2, 1, 0][: len(CLASSES)]
    thresholds = torch.full((len(CLASSES),), 0.5)
    logits, presence = collect(
        predict_slices(model, slices_hu, window_hu=WINDOW_HU, flip=True, other_sides=sides)
    )
    plain, plain_presence = stack_by_stack(model, slices_hu)
    mirrored, mirrored_presence = stack_by_stack(model, slices_hu[:, :, ::-1].copy())
    mean = (torch.sigmoid(plain) + torch.sigmoid(mirrored.flip(-1)[:, sides])) / 2
    torch.testing.assert_close(torch.sigmoid(logits), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, (plain_presence + mirrored_presence[:, sides]) / 2)
    gated, _ = collect(
        predict_slices(
            model,
            slices_hu,
            window_hu=WINDOW_HU,
            flip=True,
            other_sides=sides,
            thresholds=thresholds,
        )
    )
    expected = gate_logits(logits, presence >= thresholds).clamp(min=-16)
    torch.testing.assert_close(gated.clamp(min=-16), expected)


def test_an_ensemble_averages_probabilities_each_in_its_own_window() -> None:
    members = [Member(ToyNet(seed=1), WINDOW_HU), Member(ToyNet(seed=2), (-1300.0, 300.0))]
    slices_hu = padded_slices(4)
    logits, presence = collect(predict_ensemble(members, slices_hu, batch=3))
    alone = [
        collect(predict_slices(m.model, slices_hu, window_hu=m.window_hu, batch=3)) for m in members
    ]
    mean = (torch.sigmoid(alone[0][0]) + torch.sigmoid(alone[1][0])) / 2
    torch.testing.assert_close(torch.sigmoid(logits), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, (alone[0][1] + alone[1][1]) / 2)


def test_a_class_under_its_presence_threshold_is_gated_in_that_slice_only() -> None:
    logits = torch.ones(2, 3, 4, 4)
    present = torch.tensor([[0.2, 0.5, 0.9], [0.8, 0.4, 0.1]]) >= torch.tensor([0.3, 0.5, 0.0])
    expected = torch.tensor([[ABSENT_LOGIT, 1.0, 1.0], [1.0, ABSENT_LOGIT, 1.0]])
    expected = expected[:, :, None, None].expand(2, 3, 4, 4)
    assert torch.equal(gate_logits(logits, present), expected)
    assert torch.equal(logits, torch.ones(2, 3, 4, 4))


def test_thresholds_follow_the_order_of_the_classes_and_are_a_half_where_not_calibrated() -> None:
    thresholds = threshold_vector({"third": 0.9, "first": 0.2}, CLASSES)
    torch.testing.assert_close(thresholds, torch.tensor([0.2, 0.5, 0.9]))


@pytest.mark.parametrize("interaction", ["exchange", "ladder"])
def test_the_real_network_gives_the_same_in_chunks_as_stack_by_stack(interaction: str) -> None:
    config = ModelConfig(image_size=64, cnn_width=4, interaction=interaction)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, CLASSES).eval()
    slices_hu = padded_slices(5, size=64)
    expected_logits, expected_presence = stack_by_stack(model, slices_hu)
    for batch in (2, 5):
        logits, presence = collect(
            predict_slices(model, slices_hu, window_hu=WINDOW_HU, batch=batch)
        )
        torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(presence, expected_presence, atol=1e-5, rtol=0)


def test_the_training_mode_of_the_network_comes_back() -> None:
    model = ToyNet().train()
    chunks = predict_slices(model, padded_slices(5), window_hu=WINDOW_HU, batch=2)
    next(chunks)
    assert not model.training
    chunks.close()  # type: ignore[attr-defined]
    assert model.training


@pytest.mark.parametrize("shape", [(4, 8, 8), (8, 8), (1, 5, 8, 8)])
def test_arrays_that_are_not_padded_slices_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="padded slices must have the shape"):
        predict_slices(ToyNet(), np.zeros(shape, np.int16), window_hu=WINDOW_HU)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="precision must be one of"):
        predict_slices(ToyNet(), padded_slices(1), window_hu=WINDOW_HU, precision="64-true")


def real_network(*, size: int = 64, **options: object) -> SamCancerNet:
    config = ModelConfig(image_size=size, cnn_width=4, **options)  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model(config, CLASSES).eval()


def middle_of(presence: Tensor) -> Tensor:
    """Thresholds that some slices reach and others miss."""
    return presence.median(dim=0).values


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 7])
def test_presence_first_draws_what_drawing_everything_and_gating_gives(
    batch: int, flip: bool
) -> None:
    model, slices_hu = real_network(), padded_slices(7, size=64)
    members = [Member(model, WINDOW_HU), Member(real_network(), (-1300.0, 300.0))]
    for chosen in (members[:1], members):
        everything, presence = collect(predict_ensemble(chosen, slices_hu, batch=batch, flip=flip))
        thresholds = middle_of(presence)
        present = presence >= thresholds
        assert present.any()
        assert not present.all()
        logits, same_presence = collect(
            predict_ensemble(chosen, slices_hu, batch=batch, flip=flip, thresholds=thresholds)
        )
        torch.testing.assert_close(same_presence, presence, atol=1e-6, rtol=0)
        torch.testing.assert_close(logits[present], everything[present], atol=1e-5, rtol=1e-5)
        assert (logits[~present] < -10).all()


def test_presence_first_draws_only_slices_and_classes_that_are_present() -> None:
    model, slices_hu = real_network(), padded_slices(7, size=64)
    _, presence = collect(predict_slices(model, slices_hu, window_hu=WINDOW_HU))
    drawn: list[int] = []
    fine: list[int] = []
    transformer = model.decoder.mask_decoder.transformer
    transformer.register_forward_hook(lambda _m, args, _o: drawn.append(len(args[0])))
    model.cnn.ups[-1].register_forward_hook(lambda _m, args, _o: fine.append(len(args[0])))
    for thresholds in (torch.zeros(3), middle_of(presence), torch.full((3,), 2.0)):
        drawn.clear(), fine.clear()
        collect(predict_slices(model, slices_hu, window_hu=WINDOW_HU, thresholds=thresholds))
        present = presence >= thresholds
        slices = present.any(dim=1).nonzero().flatten()
        assert sum(drawn) == present.sum()
        assert sum(fine) == (slices[-1] - slices[0] + 1 if len(slices) else 0)


def test_presence_first_works_on_chunks_of_several_cases() -> None:
    model, chunk = real_network(), torch.rand(2, 3 + 4, 64, 64)
    with torch.inference_mode():
        look, everything = model.look(chunk), model(chunk).mask_logits
        for wanted in (torch.rand(2, 3, 3) > 0.5, torch.zeros(2, 3, 3, dtype=torch.bool)):
            masks = model.outline(look, wanted)
            expected = gate_logits(everything, wanted)
            torch.testing.assert_close(masks, expected, atol=1e-5, rtol=1e-5)


AIR_HU, AT_LOW_END_HU = -1024, -200


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize(
    "bright", [(), (0,), (6,), (12,), (3, 4), (2, 9), (0, 12), tuple(range(13))]
)
def test_skipping_air_gives_the_same(bright: tuple[int, ...], batch: int) -> None:
    volume = np.full((13, 12, 12), AIR_HU, np.int16)
    volume[:, 3] = AT_LOW_END_HU
    for z in bright:
        volume[z, 5, 7] = AT_LOW_END_HU + 1 + 10 * z
    slices_hu = np.pad(volume, ((2, 2), (0, 0), (0, 0)), mode="edge")
    model, plain = ToyNet(), ToyNet()
    skipped = collect(predict_slices(model, slices_hu, window_hu=WINDOW_HU, batch=batch))
    everything = collect(
        predict_slices(plain, slices_hu, window_hu=WINDOW_HU, batch=batch, skip_air=False)
    )
    for found, expected in zip(skipped, everything, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    seen = {t for z in bright for t in range(z - 2, z + 3) if 0 <= t < 13}
    assert len(seen) <= sum(model.targets_seen) <= sum(plain.targets_seen) + 1


def test_air_runs_the_network_once() -> None:
    model = ToyNet()
    air = np.full((400 + 4, 12, 12), AIR_HU, np.int16)
    logits, _ = collect(predict_slices(model, air, window_hu=WINDOW_HU))
    assert len(logits) == 400
    assert model.targets_seen == [1]


def test_air_is_what_lies_under_the_lowest_window_of_an_ensemble() -> None:
    members = [Member(ToyNet(seed=1), WINDOW_HU), Member(ToyNet(seed=2), (-1300.0, 300.0))]
    slices_hu = np.full((9, 12, 12), AIR_HU, np.int16)
    collect(predict_ensemble(members, slices_hu))
    assert members[0].model.targets_seen == [5]


def test_the_next_chunk_is_read_while_the_network_runs() -> None:
    reading = threading.Event()

    class Source:
        shape = (12, 12, 12)

        def __getitem__(self, index: slice) -> np.ndarray:
            if index.start == 4:
                reading.set()
            return padded_slices(8)[index]

    class Waiting(ToyNet):
        def forward(self, chunk: Tensor, presence: Tensor | None = None) -> Output:
            assert reading.wait(timeout=60)
            return super().forward(chunk)

    found = collect(predict_slices(Waiting(), Source(), window_hu=WINDOW_HU, batch=4))
    expected = stack_by_stack(ToyNet(), padded_slices(8))
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)


def test_an_error_of_the_reader_reaches_the_caller() -> None:
    class Broken:
        shape = (12, 12, 12)

        def __getitem__(self, index: slice) -> np.ndarray:
            if index.start:
                raise InputError("is damaged")
            return padded_slices(8)[index]

    with pytest.raises(InputError, match="is damaged"):
        collect(predict_slices(ToyNet(), Broken(), window_hu=WINDOW_HU, batch=4))


def test_slices_may_be_a_tensor_on_its_device_already() -> None:
    slices_hu = padded_slices(6)
    found = collect(
        predict_slices(ToyNet(), torch.from_numpy(slices_hu), window_hu=WINDOW_HU, batch=4)
    )
    expected = stack_by_stack(ToyNet(), slices_hu)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)


def test_agreement_is_the_share_of_networks_above_a_half() -> None:
    slices_hu = padded_slices(5)
    members = [Member(ToyNet(seed=seed), WINDOW_HU) for seed in range(3)]
    marked = [
        torch.cat([c.logits for c in predict_slices(m.model, slices_hu, window_hu=WINDOW_HU)]) > 0
        for m in members
    ]
    shares = [chunk.agreement for chunk in predict_ensemble(members, slices_hu, batch=2)]
    expected = torch.stack(marked).float().mean(dim=0)
    assert 0 < (expected == 1).float().mean() < 1
    torch.testing.assert_close(torch.cat(shares), expected)


def test_a_network_that_is_alone_agrees_with_nobody_not_even_in_a_mirror() -> None:
    member = Member(ToyNet(), WINDOW_HU)
    chunks = list(predict_ensemble([member], padded_slices(3), flip=True))
    assert [chunk.agreement for chunk in chunks] == [None] * len(chunks)
