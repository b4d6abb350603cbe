"""The roofline's groups cover the network, and their rows add up to the whole pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import roofline
import workload as made
from workload import Workload

from samcancer.modeling import count_multiply_adds


def test_the_rows_add_up_to_the_whole_pass(tmp_path: Path, tiny_words: list[str]) -> None:
    words = ["--chunks", "1", "--peak-sides", "64", "128"]
    assert roofline.main([*tiny_words, *words]) == 0
    figures = json.loads((tmp_path / "roofline.json").read_text())
    for key in ("seconds", "flops"):
        total = sum(group[key] for group in figures["groups"].values())
        assert total == pytest.approx(figures["whole"][key])
    assert figures["groups"][roofline.REST]["seconds"] > 0
    assert "| **whole image pass** |" in (tmp_path / "results.md").read_text()


def test_operations_of_single_stacks_are_those_that_the_network_states(tiny: Workload) -> None:
    single = Workload(**{**vars(tiny), "batch": 1})
    network = made.build(single, ["a"])
    network.requires_grad_(False)
    flops = roofline.count_flops(network, roofline.layer_groups(network), single)
    assert flops[roofline.REST] == 2 * count_multiply_adds(network.requires_grad_(True), 32)


def test_no_module_is_in_two_groups(tiny: Workload) -> None:
    groups = roofline.layer_groups(made.build(tiny, ["a"]))
    inside = [id(part) for modules in groups.values() for m in modules for part in m.modules()]
    assert len(inside) == len(set(inside))


def test_an_encoder_without_plain_blocks_is_refused(
    tiny_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert roofline.main([*tiny_words, "--encoder", "medsam_lite"]) == 2
    assert "plain ViT" in capsys.readouterr().err


def test_shares_are_of_the_largest_product() -> None:
    part = {"seconds": 0.5, "flops": 30e9}
    figures = {
        "command": "c",
        "machine": "m",
        "workload": "w",
        "peak_flops_per_s": {"512": 80e9, "1024": 100e9},
        "whole": {"seconds": 1.0, "flops": 75e9},
        "groups": {"encoder": part},
    }
    markdown = roofline.to_markdown(figures)
    assert "| encoder | 0.5000 | 50.0% | 30.00 | 60.0 | 60.0% |" in markdown
    assert "found 75.0%, met" in markdown
