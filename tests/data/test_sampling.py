from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samcancer.data.sampling import EpochBatchSampler, EpochSchedule, PoolCase, SlicePool
from samcancer.errors import InputError


def pool(*, slices_per_sample: int = 1) -> SlicePool:
    return SlicePool(
        (
            PoolCase("liver_1", "Liver", 40, {"liver_lesion": [3, 4]}),
            PoolCase("liver_2", "Liver", 10, {"liver_lesion": [7]}),
            PoolCase("kidney_1", "Kidney", 20, {"kidney_lesion": [0], "liver_lesion": []}),
            PoolCase("healthy", "Healthy", 5, {}),
        ),
        slices_per_sample,
    )


def is_positive(sample_pool: SlicePool, case_id: str, start: int) -> bool:
    case = next(c for c in sample_pool.cases if c.case_id == case_id)
    targets = range(start, start + sample_pool.slices_per_sample)
    return any(z in targets for positive in case.positive_slices.values() for z in positive)


def test_without_a_lesion_share_every_slice_is_a_target_exactly_once() -> None:
    plan = pool().plan_epoch(1, 0, samples_per_epoch=None, lesion_fraction=0)
    expected = {(c.case_id, z) for c in pool().cases for z in range(c.slices)}
    assert len(plan) == len(expected) == 75
    assert {(key.case_id, key.start) for key in plan} == expected


def test_every_slice_is_covered_when_samples_have_several_targets() -> None:
    chunked = pool(slices_per_sample=3)
    plan = chunked.plan_epoch(1, 0, samples_per_epoch=None, lesion_fraction=0)
    covered = {(key.case_id, z) for key in plan for z in range(key.start, key.start + 3)}
    assert covered >= {(c.case_id, z) for c in chunked.cases for z in range(c.slices)}
    assert len(plan) == 14 + 4 + 7 + 2


def test_equal_seed_and_epoch_give_equal_plans_and_other_epochs_other_plans() -> None:
    plans = [
        pool().plan_epoch(seed, epoch, samples_per_epoch=30, lesion_fraction=0.5)
        for seed, epoch in ((5, 2), (5, 2), (5, 3), (6, 2))
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]


def test_samples_of_an_epoch_have_seeds_of_their_own() -> None:
    plan = pool().plan_epoch(1, 0, samples_per_epoch=500, lesion_fraction=0.5)
    assert len({key.seed for key in plan}) == 500


@pytest.mark.parametrize("targets", [1, 4])
def test_the_lesion_share_of_samples_shows_a_labelled_slice(targets: int) -> None:
    sample_pool = pool(slices_per_sample=targets)
    plan = sample_pool.plan_epoch(1, 0, samples_per_epoch=200, lesion_fraction=1)
    assert all(is_positive(sample_pool, key.case_id, key.start) for key in plan)
    longest = {c.case_id: c.slices - targets for c in sample_pool.cases}
    assert all(0 <= key.start <= longest[key.case_id] for key in plan)


def test_classes_are_drawn_evenly_although_one_has_more_slices() -> None:
    plan = pool().plan_epoch(1, 0, samples_per_epoch=4000, lesion_fraction=1)
    drawn = Counter(key.case_id for key in plan)
    # kidney_1 alone holds its class: half of 4000 draws, 5 standard deviations are 158
    assert abs(drawn["kidney_1"] - 2000) < 158
    # two liver cases share the rest evenly although one has twice the labelled slices
    assert abs(drawn["liver_1"] - 1000) < 137


def test_data_sets_are_drawn_evenly_within_a_class() -> None:
    cases = [PoolCase(f"big_{i}", "Big", 3, {"tumour": [1]}) for i in range(9)]
    cases.append(PoolCase("small", "Small", 3, {"tumour": [1]}))
    plan = SlicePool(tuple(cases)).plan_epoch(0, 0, samples_per_epoch=2000, lesion_fraction=1)
    drawn = Counter(key.case_id for key in plan)
    assert abs(drawn["small"] - 1000) < 112


def test_a_pool_without_lesions_draws_all_samples_from_all_slices() -> None:
    healthy = SlicePool((PoolCase("healthy", "Healthy", 6, {}),))
    plan = healthy.plan_epoch(0, 0, samples_per_epoch=12, lesion_fraction=0.5)
    assert Counter(key.start for key in plan) == dict.fromkeys(range(6), 2)


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(InputError, match="no slice to train on"):
        SlicePool(())


def schedule(**changes: int) -> EpochSchedule:
    parts = {"seed": 3, "batch_size": 8, **changes}
    return EpochSchedule(pool(), lesion_fraction=0.5, **parts)


def test_a_resumed_epoch_gives_the_rest_of_the_same_batches() -> None:
    whole = schedule().batches(4)
    sampler = EpochBatchSampler(schedule())
    sampler.set_position(4, 3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == len(whole) - 3 == 7


@settings(deadline=None)
@given(
    world_size=st.integers(1, 8),
    per_process=st.integers(1, 5),
    samples=st.integers(1, 60),
    epoch=st.integers(0, 3),
)
def test_processes_share_an_epoch_without_loss_or_repeat(
    world_size: int, per_process: int, samples: int, epoch: int
) -> None:
    batch_size = world_size * per_process
    parts = {"batch_size": batch_size, "samples_per_epoch": samples}
    whole = schedule(**parts).batches(epoch)
    ranks = [schedule(**parts, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [rank.batches(epoch) for rank in ranks]
    assert {len(share) for share in shares} == {len(whole)} == {math.ceil(samples / batch_size)}
    for number, batch in enumerate(whole):
        together = [key for share in shares for key in share[number]]
        assert Counter(together) == Counter(batch)
        assert len(batch) == ranks[0].batch_length(number)
        assert [bool(share[number]) for share in shares] == [r.has_share(number) for r in ranks]
    assert Counter(key for batch in whole for key in batch) == Counter(
        pool().plan_epoch(3, epoch, samples_per_epoch=samples, lesion_fraction=0.5)
    )


def test_a_process_without_a_share_is_given_a_sample_of_the_epoch_to_run_on() -> None:
    # 75 samples in batches of 8 leave 3 for the last one, none of them for the fourth process
    fourth = schedule(rank=3, world_size=4)
    given = list(EpochBatchSampler(fourth))
    assert fourth.batches(0)[-1] == []
    assert given[-1] == schedule().batches(0)[0][:1]
    assert given[:-1] == fourth.batches(0)[:-1]


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(InputError, match=r"8 cannot be shared by 3 processes.*a multiple of 3"):
        schedule(world_size=3)
