from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from samcancer.inference.components import find_components, relabel_components, slabs_of

LABEL = 3


def label_map(seed: int, shape: tuple[int, int, int], density: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    values = np.where(generator.random(shape) < density, LABEL, 0)
    return np.where((values == 0) & (generator.random(shape) < 0.3), 2, values).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 7), st.integers(1, 9)),
    density=st.sampled_from([0.02, 0.08, 0.15, 0.3, 0.9]),
    slab_slices=st.integers(1, 12),
)
def test_slab_by_slab_gives_the_components_of_the_whole(
    seed: int, shape: tuple[int, int, int], density: float, slab_slices: int
) -> None:
    values = label_map(seed, shape, density)
    whole, count = ndimage.label(values == LABEL, structure=np.ones((3, 3, 3)))
    found = find_components(values, LABEL, slab_voxels=slab_slices * shape[1] * shape[2])
    if count == 0:
        assert found is None
        return
    assert found is not None
    assert sorted(found.voxels) == sorted(np.bincount(whole.ravel())[1:])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    slab_slices=st.integers(1, 9),
    smallest=st.integers(1, 12),
)
def test_removing_small_components_gives_the_same_for_any_slab(
    seed: int, slab_slices: int, smallest: int
) -> None:
    values = label_map(seed, (9, 6, 8), 0.12)
    whole, _ = ndimage.label(values == LABEL, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(whole.ravel())
    expected = np.where((values == LABEL) & (sizes[whole] < smallest), 0, values)
    found = find_components(values, LABEL, slab_voxels=slab_slices * 48)
    assert found is not None
    relabel_components(values, found, chosen=found.voxels < smallest)
    np.testing.assert_array_equal(values, expected)


def test_components_touching_by_a_corner_across_a_slab_border_are_one() -> None:
    values = np.zeros((4, 5, 6), dtype=np.uint8)
    values[1, 2, 2] = values[2, 3, 1] = LABEL
    found = find_components(values, LABEL, slab_voxels=1)
    assert found is not None
    assert found.voxels.tolist() == [2]


def test_other_labels_in_the_box_are_untouched() -> None:
    values = np.zeros((3, 4, 4), dtype=np.uint8)
    values[0, 0, 0] = values[2, 3, 3] = LABEL
    values[1, 1, 1] = 7
    found = find_components(values, LABEL)
    assert found is not None
    relabel_components(values, found, chosen=np.array([True, True]))
    assert values[1, 1, 1] == 7
    assert np.count_nonzero(values) == 1


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_a_strided_view_is_changed_in_place(axes: tuple[int, int, int]) -> None:
    values = np.zeros((5, 6, 7), dtype=np.uint8)
    values[1, 2, 3] = LABEL
    view = values.transpose(axes)[::-1, :, ::-1]
    found = find_components(view, LABEL)
    assert found is not None
    relabel_components(view, found, chosen=np.array([True]))
    assert not values.any()


@pytest.mark.parametrize("slab_slices", [1, 2, 5])
def test_slabs_put_every_voxel_where_it_lies(slab_slices: int) -> None:
    values = np.zeros((7, 6, 8), dtype=np.uint8)
    values[1:5, 2, 3:5] = LABEL  # 8 voxels
    values[6, 5, 7] = LABEL
    values[3, 4, 6] = 2
    found = find_components(values, LABEL, slab_voxels=slab_slices * 4 * 5)
    assert found is not None
    seen = np.zeros(values.shape, dtype=np.int64)
    for slab in slabs_of(values, found):
        component = np.concatenate([[-1], slab.component])
        seen[slab.box] = component[slab.parts] + 1
    big = int(np.argmax(found.voxels)) + 1
    assert (seen[1:5, 2, 3:5] == big).all()
    assert seen[6, 5, 7] == 3 - big
    assert np.count_nonzero(seen) == 9


def test_chosen_components_take_another_label() -> None:
    values = np.zeros((3, 4, 5), dtype=np.uint8)
    values[0, 0, 0] = values[2, 3, 2:4] = LABEL
    found = find_components(values, LABEL)
    assert found is not None
    relabel_components(values, found, chosen=found.voxels == 2, new_label=9)
    assert values[2, 3].tolist() == [0, 0, 9, 9, 0]
    assert values[0, 0, 0] == LABEL


def test_slabs_without_a_wanted_component_are_left_out() -> None:
    values = np.zeros((6, 2, 2), dtype=np.uint8)
    values[0, 0, 0] = values[3:5, 1, 1] = LABEL
    found = find_components(values, LABEL, slab_voxels=1)
    assert found is not None
    slabs = list(slabs_of(values, found, wanted=found.voxels == 2))
    assert [slab.box[0].start for slab in slabs] == [3, 4]
