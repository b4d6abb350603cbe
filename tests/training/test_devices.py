from __future__ import annotations

import pytest
import torch

from samcancer.errors import InputError
from samcancer.training.devices import explaining_lost_processes, in_order, start_fabric
from samcancer.training.processes import LostProcessError


def test_more_gpus_than_there_are_is_refused() -> None:
    too_many = torch.cuda.device_count() + 1
    with pytest.raises(InputError, match=f"{too_many} GPUs asked for"):
        start_fabric(accelerator="cuda", devices=too_many, precision="32-true")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(InputError, match="precision 'half' cannot be used"):
        start_fabric(accelerator="cpu", precision="half")


def test_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1, got 0"):
        start_fabric(devices=0, precision="32-true")


def test_another_number_of_processes_than_were_started_is_refused() -> None:
    with pytest.raises(InputError, match="--devices 2, but 1 processes were started"):
        start_fabric(accelerator="cpu", devices=2, precision="32-true")


def test_what_gloo_says_of_a_closed_connection_becomes_one_line() -> None:
    said = "[/a/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:2000"
    with (
        pytest.raises(
            LostProcessError, match=r"gone or silent \(Connection closed by peer.*--resume"
        ),
        explaining_lost_processes(),
    ):
        raise RuntimeError(said)


def test_errors_that_have_nothing_to_do_with_other_processes_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), explaining_lost_processes():
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("count", [0, 1, 3, 7])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_what_processes_took_in_turn_comes_back_in_order(count: int, processes: int) -> None:
    items = list(range(count))
    assert in_order([items[rank::processes] for rank in range(processes)]) == items
