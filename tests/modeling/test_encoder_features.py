"""A frozen encoder that nothing is fed back into runs without a gradient, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samcancer.modeling import SamCancerNet
from samcancer.modeling.encoder_features import EncoderFeatures, encode

B, T, S = 2, 3, 48
ENCODER_NAMES = ["small_sam", "medsam_lite"]
TOLERANCE = 1e-5
"""Between batches of different sizes, for which the processor adds in different orders."""


def chunk_of(seed: int = 7) -> Tensor:
    return torch.rand(B, T + 4, S, S, generator=torch.Generator().manual_seed(seed))


def features_of(model: SamCancerNet, chunk: Tensor) -> EncoderFeatures:
    """Return (B, T, ...) features of the target slices, computed slice by slice."""
    slices = [
        encode(model.encoder, chunk[b, t + 2][None, None]) for b in range(B) for t in range(T)
    ]
    joined = [
        torch.cat(same).unflatten(0, (B, T)) for same in zip(*map(_flat, slices), strict=True)
    ]
    return EncoderFeatures(tuple(joined[:-1]), joined[-1])


def _flat(features: EncoderFeatures) -> tuple[Tensor, ...]:
    return (*features.stages, features.embedding)


def gradients(model: SamCancerNet, **given: EncoderFeatures) -> dict[str, Tensor]:
    model.zero_grad()
    output = model(chunk_of(), **given)
    torch.stack([logits.square().mean() for logits in output]).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def saved_bytes(run: Callable[[], object]) -> int:
    """Bytes that a computation keeps for its backward pass."""
    kept: list[int] = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.nbytes)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(kept)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_gradients_are_those_of_an_encoder_that_records_to_the_bit(
    build, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(encoder, interaction="ladder")
    without = gradients(model)
    monkeypatch.setattr(SamCancerNet, "takes_encoder_features", property(lambda _: False))
    recorded = gradients(model)
    assert without.keys() == recorded.keys()
    assert [n for n in without if not torch.equal(without[n], recorded[n])] == []


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_the_encoder_keeps_nothing_for_the_backward_pass(build, encoder: str) -> None:
    model = build(encoder, interaction="ladder")
    images = chunk_of()[:, 2:3].requires_grad_()
    apart = model._encoder_for(None)
    assert saved_bytes(lambda: apart.stage(0, apart.embed(images))) == 0
    assert saved_bytes(lambda: model.encoder.stage(0, model.encoder.embed(images))) > 0
    assert all(x.grad_fn is None for x in _flat(encode(model.encoder, images)))


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_given_features_lead_to_the_same_output(build, encoder: str) -> None:
    model = build(encoder, interaction="ladder").eval()
    given = features_of(model, chunk_of())
    with torch.no_grad():
        seen, told = model(chunk_of()), model(chunk_of(), encoded=given)
    for one, other in zip(seen, told, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def test_given_features_lead_to_the_same_gradients(build) -> None:
    model = build("small_sam", interaction="ladder").eval()
    seen = gradients(model)
    told = gradients(model, encoded=features_of(model, chunk_of()))
    largest = max(float(gradient.abs().max()) for gradient in seen.values())
    assert seen.keys() == told.keys()
    for name, gradient in seen.items():
        torch.testing.assert_close(gradient, told[name], rtol=1e-3, atol=TOLERANCE * largest)


def test_given_features_belong_to_their_own_slices(build) -> None:
    model = build("small_sam", interaction="ladder").eval()
    given = features_of(model, chunk_of())
    changed = EncoderFeatures(tuple(x.clone() for x in given.stages), given.embedding.clone())
    for x in _flat(changed):
        x[1, 2] += 1
    with torch.no_grad():
        before, after = (model(chunk_of(), encoded=f).mask_logits for f in (given, changed))
    moved = [
        (b, t) for b in range(B) for t in range(T) if not torch.equal(before[b, t], after[b, t])
    ]
    assert moved == [(1, 2)]


def test_the_encoder_does_not_run_when_its_features_are_given(build) -> None:
    model = build("small_sam", interaction="ladder").eval()
    given = features_of(model, chunk_of())
    model.encoder.blocks[0].register_forward_hook(lambda *_: pytest.fail("the encoder ran"))
    with torch.no_grad():
        model(chunk_of(), encoded=given)


@pytest.mark.parametrize(
    ("encoder", "interaction", "takes"),
    [
        ("small_sam", "ladder", True),
        ("medsam_lite", "ladder", True),
        ("small_sam", "exchange", False),
        ("vit_tiny", "ladder", False),
    ],
)
def test_only_a_frozen_encoder_that_nothing_is_fed_back_into_has_features_to_give(
    build, encoder: str, interaction: str, takes: bool
) -> None:
    model = build(encoder, interaction=interaction)
    assert model.takes_encoder_features is takes
    if not takes:
        given = features_of(model, chunk_of())
        with pytest.raises(ValueError, match="only with a frozen encoder and the interaction"):
            model(chunk_of(), encoded=given)
