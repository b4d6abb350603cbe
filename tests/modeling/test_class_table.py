"""Rows learned, written from text, or both; a class asked for that was never trained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from samcancer.config import ModelConfig
from samcancer.modeling import SamCancerNet, build_model
from samcancer.modeling.class_table import ClassPrompt, ClassTable, TextVectors

DIM, WIDTH = 8, 4


def text_of(count: int, *, like: float = 0.0) -> TextVectors:
    """Unit vectors, moved towards one direction by ``like``, as those of one template are."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(count, 16, generator=generator) + like
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return TextVectors(vectors, vectors.mean(dim=0))


def net_of(kind: ClassPrompt, text: TextVectors | None) -> SamCancerNet:
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=48,
        cnn_width=4,
        class_prompt=kind,
        text_embeddings=None if kind == "indicator" else "embeddings.safetensors",
    )
    model = build_model(config, ["a", "b", "c"], text=text)
    return model.eval()


def chunk() -> Tensor:
    return torch.rand(1, 6, 48, 48, generator=torch.Generator().manual_seed(1))


def test_text_writes_rows_that_differ_between_classes_of_like_sentences() -> None:
    rows = ClassTable(5, DIM, pixel_width=WIDTH, kind="text", text=text_of(5, like=20.0))()
    apart = torch.cdist(rows.indicators.flatten(1), rows.indicators.flatten(1))
    assert apart[~torch.eye(5, dtype=torch.bool)].min() > 1


def test_with_both_the_learned_row_leads_and_text_begins_at_nothing() -> None:
    torch.manual_seed(0)
    learned = ClassTable(3, DIM, pixel_width=WIDTH)
    torch.manual_seed(0)
    both = ClassTable(3, DIM, pixel_width=WIDTH, kind="both", text=text_of(3))
    for one, other in zip(learned(), both(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    both().indicators.sum().backward()
    assert both.write is not None
    assert both.write.weight.grad is not None


def test_text_alone_has_no_numbers_of_its_own_for_a_class() -> None:
    three, five = (net_of("text", text_of(3)), text_of(5))
    torch.manual_seed(0)
    config = ModelConfig(
        image_size=48, cnn_width=4, class_prompt="text", text_embeddings="embeddings.safetensors"
    )
    wide = build_model(config, list("abcde"), text=five)
    shapes = {name: p.shape for name, p in three.named_parameters()}
    assert {name: p.shape for name, p in wide.named_parameters()} == shapes


def test_a_class_asked_for_by_its_text_answers_as_if_it_had_been_there_from_the_start() -> None:
    text = text_of(3)
    model = net_of("text", text)
    with torch.no_grad():
        before = model(chunk())
        model.classes.ask(text.vectors[[2, 0]])
        after = model(chunk())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one[:, :, [2, 0]], other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["indicator", "both"])
def test_learned_classes_cannot_be_asked_for_by_text(kind: ClassPrompt) -> None:
    model = net_of(kind, text_of(3))
    with pytest.raises(ValueError, match="only classes of kind 'text'"):
        model.classes.ask(text_of(2).vectors)


def test_text_vectors_must_be_as_many_as_the_classes() -> None:
    with pytest.raises(ValueError, match="need 3 text vectors"):
        ClassTable(3, DIM, pixel_width=WIDTH, kind="text", text=text_of(2))


def test_text_vectors_stay_as_they_are_in_training() -> None:
    model = net_of("text", text_of(3)).train()
    before = model.classes.text.clone()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    sum(output.square().mean() for output in model(chunk())).backward()
    optimiser.step()
    assert torch.equal(model.classes.text, before)
    assert "classes.text" in model.state_dict()
