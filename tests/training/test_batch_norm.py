from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from norm_script import SHARES, norm, samples
from torch import Tensor, nn

from samcancer.config import ModelConfig
from samcancer.errors import InputError
from samcancer.training.batch_norm import SharedBatchNorm, share_batch_norms
from samcancer.training.network import build_network

HERE = Path(__file__).parent


def close(found: Tensor, exact: Tensor | None) -> None:
    """Compare with what one process computes in 64 bits; means are up to 18 deviations off 0."""
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=2e-5)


def test_four_processes_normalise_and_learn_as_one_does_with_all_samples(tmp_path: Path) -> None:
    path = os.pathsep.join([str(HERE.parents[1]), str(HERE)])
    subprocess.run(
        [sys.executable, str(HERE / "norm_script.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        timeout=300,
    )
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(4)]
    layer = norm().double()
    x, gradient = (tensor.double() for tensor in samples())
    x.requires_grad_()
    y = layer(x)
    y.backward(gradient)
    assert x.grad is not None
    counted = [part for part, share in zip(found, SHARES, strict=True) if share]
    for name, whole in (("y", y), ("x", x.grad)):
        close(torch.cat([part[name] for part in counted]), whole)
    for name, parameter in layer.named_parameters():
        close(torch.stack([part[name] for part in found]).sum(dim=0), parameter.grad)
    for part in found:
        close(part["0.running_mean"], layer.running_mean)
        close(part["0.running_var"], layer.running_var)
        assert int(part["0.num_batches_tracked"]) == 1
    assert not found[SHARES.index(0)]["x"].any()


def test_a_checkpoint_does_not_say_on_how_many_processes_it_was_trained() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.BatchNorm2d(4)))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (shared,) = share_batch_norms(network)
    assert isinstance(shared, SharedBatchNorm)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_at_inference_a_shared_norm_is_the_norm_it_replaced() -> None:
    plain = norm().eval()
    network = nn.Sequential(norm()).eval()
    share_batch_norms(network)
    x, _ = samples()
    assert torch.equal(network(x), plain(x))


def test_a_norm_of_another_kind_is_refused_by_name() -> None:
    class Other(nn.BatchNorm2d):
        pass

    network = nn.Sequential(nn.Sequential(Other(3)))
    with pytest.raises(InputError, match=r"0\.0 is a Other, whose statistics several processes"):
        share_batch_norms(network)


def test_our_networks_have_norms_that_can_be_shared() -> None:
    network = build_network(ModelConfig(image_size=32, cnn_width=4), ("lesion",), seed=0)
    plain = [module for module in network.modules() if type(module) is nn.BatchNorm2d]
    assert len(share_batch_norms(network)) == len(plain) > 0
    assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
