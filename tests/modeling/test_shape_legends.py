"""Every modeling file opens with a shape legend, and the parts keep to it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import samcancer.modeling
from samcancer.modeling.class_prompts import ClassPrompts
from samcancer.modeling.class_table import ClassTable, TextVectors
from samcancer.modeling.cnn_branch import CnnBranch
from samcancer.modeling.encoders import ENCODERS, ImageEncoder
from samcancer.modeling.exchange import Exchange
from samcancer.modeling.layers import ChannelLayerNorm, ConvNormAct

FOLDER = Path(samcancer.modeling.__file__).parent
MODULE_FILES = [p for p in sorted(FOLDER.rglob("*.py")) if "(nn.Module)" in p.read_text()]

T, B, W, S, K = 3, 2, 4, 48, 5
N = T * B


def shapes(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


@pytest.mark.parametrize("path", MODULE_FILES, ids=lambda p: p.stem)
def test_a_file_with_modules_opens_with_a_shape_legend(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    legend = [line for line in docstring.splitlines() if line.startswith("    ")]
    assert any(re.search(r"->.*\(.+,.+\)", line) for line in legend)


def test_layers() -> None:
    x = torch.zeros(B, 3, 8, 6)
    assert shapes(ChannelLayerNorm(3)(x), ConvNormAct(3, 7)(x)) == [(B, 3, 8, 6), (B, 7, 8, 6)]
    assert shapes(ConvNormAct(3, 7, stride=2)(x)) == [(B, 7, 4, 3)]


def test_cnn_branch() -> None:
    cnn = CnnBranch(W)
    target, x = cnn.stem(torch.zeros(T + 4, B, S, S))
    assert shapes(target, x) == [(N, W, S, S), (N, 3 * W, S // 2, S // 2)]
    skips = [target]
    for factor, down in zip((2, 4, 8, 16), cnn.downs, strict=True):
        x = down(x)
        skips.append(x)
        assert shapes(x) == [(N, factor * W, S // factor, S // factor)]
    *shallow, deepest = skips
    ups = cnn.decode(deepest, shallow[::-1])
    again = cnn.decode(ups[1], shallow[1::-1], first=2)
    assert all(torch.equal(x, y) for x, y in zip(again, ups[2:], strict=True))
    assert shapes(*ups) == [(N, f * W, S // f, S // f) for f in (8, 4, 2, 1)]


def test_encoder() -> None:
    encoder = ImageEncoder(ENCODERS["vit_tiny"].vit, S)
    tokens = encoder.embed(torch.zeros(B, 1, S, S))
    dim, embedding = encoder.shape.dim, encoder.shape.out_channels
    assert shapes(tokens, encoder.stage(2, tokens)) == [(B, S // 16, S // 16, dim)] * 2
    assert shapes(encoder.embedding(tokens)) == [(B, embedding, S // 16, S // 16)]


@pytest.mark.parametrize("m", [8, 4, 2, 1])
def test_exchange(m: int) -> None:
    tokens, pixels = torch.zeros(B, 2, 3, 6), torch.zeros(B, 10, 2 * m, 3 * m)
    exchange = Exchange(6, 10, both_ways=True)
    assert shapes(*exchange(tokens, pixels)) == shapes(tokens, pixels)


@pytest.mark.parametrize("kind", ["indicator", "text", "both"])
def test_class_table(kind: str) -> None:
    text = TextVectors(torch.randn(K, 6), torch.zeros(6))
    table = ClassTable(K, 8, pixel_width=W, kind=kind, text=text)  # type: ignore[arg-type]
    assert shapes(*table()) == [(K, 4, 8), (K, 8), (K,), (K,), (K,), (K, W), (K,)]


def test_class_prompts() -> None:
    prompts = ClassPrompts(8, level_channels=[3, 5])
    rows = ClassTable(K, 8, pixel_width=W)()
    features = [torch.zeros(N, 3, 2, 3), torch.zeros(N, 5, 4, 6)]
    positions = [torch.zeros(8, 2, 3), torch.zeros(8, 4, 6)]
    assert shapes(*prompts(rows, features, positions, None)) == [(N, K, 4, 8), (N, K), (N, K, 4, 6)]


@pytest.mark.parametrize("encoder", ["vit_tiny", "small_sam"])
def test_mask_decoder_and_network(build, encoder: str) -> None:
    model = build(encoder, classes=K)
    embedding = ENCODERS[encoder].vit.out_channels
    masks = model.decoder(
        model.classes(),
        torch.zeros(N, embedding, S // 16, S // 16),
        torch.zeros(N, K, 4, embedding),
        torch.zeros(N, W, S, S),
    )
    assert shapes(masks) == [(N, K, S, S)]
    output = model(torch.zeros(B, T + 4, S, S), torch.ones(B, T, K))
    assert shapes(*output) == [(B, T, K, S, S), (B, T, K), (B, T, K, S // 4, S // 4)]


def test_each_token_attends_to_its_own_pixels_only() -> None:
    torch.manual_seed(0)
    exchange = Exchange(6, 10, both_ways=True)
    assert exchange.to_tokens is not None
    nn.init.normal_(exchange.to_tokens.out.weight)
    tokens, pixels = torch.randn(1, 2, 3, 6), torch.randn(1, 10, 8, 12)
    before = exchange.to_tokens(tokens, pixels)
    pixels[:, :, 5, 9] += 1
    moved = (exchange.to_tokens(tokens, pixels) != before).any(dim=-1)[0]
    assert moved.nonzero().tolist() == [[1, 2]]


def test_a_two_dimensional_stem_is_the_z_valid_three_dimensional_convolution() -> None:
    torch.manual_seed(0)
    stem = CnnBranch(W).stem
    chunk = torch.randn(T + 4, B, S, S)
    seen: list[Tensor] = []
    stem.target.conv.register_forward_hook(lambda _m, _i, output: seen.append(output))
    stem(chunk)
    kernel = stem.target.conv.weight.unsqueeze(1)
    volume = chunk.transpose(0, 1).unsqueeze(1)
    expected = nn.functional.conv3d(volume, kernel, padding=(0, 1, 1))[:, :, 1:-1]
    torch.testing.assert_close(
        seen[0].view(T, B, W, S, S), expected.permute(2, 0, 1, 3, 4), rtol=1e-4, atol=1e-5
    )
