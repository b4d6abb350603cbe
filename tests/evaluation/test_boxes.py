from __future__ import annotations

import numpy as np
import pytest

from samcancer.evaluation.boxes import (
    NOWHERE,
    bounding_box,
    join_boxes,
    union_box,
    value_boxes,
)


def test_the_bounding_box_holds_exactly_the_mask() -> None:
    mask = np.zeros((6, 7, 8), dtype=bool)
    mask[2, 3, 7] = mask[4, 1, 5] = True
    assert bounding_box(mask) == (slice(2, 5), slice(1, 4), slice(5, 8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_boxes_of_values_are_the_bounding_boxes_of_their_masks(dtype: type) -> None:
    values = np.random.default_rng(4).integers(0, 400, (5, 6, 7)) % 251
    values[values > 6] = 0
    values[0, 0, 0] = 250
    boxes = value_boxes(values.astype(dtype))
    assert set(boxes) == set(np.unique(values)) - {0}
    assert {v: bounding_box(values == v) for v in boxes} == boxes
    assert boxes[250] == (slice(0, 1), slice(0, 1), slice(0, 1))


def test_a_union_of_values_is_the_box_of_their_joint_mask() -> None:
    values = np.zeros((9, 9, 9), dtype=np.uint8)
    values[1, 2, 3] = 1
    values[5, 0, 8] = 4
    boxes = value_boxes(values)
    assert union_box(boxes, (1, 4, 7)) == bounding_box(values > 0)
    assert union_box(boxes, (4, 7)) == boxes[4]


def test_what_is_absent_has_a_box_without_voxels_and_does_not_count() -> None:
    values = np.zeros((4, 4, 4), dtype=np.uint8)
    assert value_boxes(values) == {}
    assert union_box({}, (1, 2)) == NOWHERE
    assert values[NOWHERE].size == 0
    somewhere = (slice(1, 2), slice(0, 4), slice(2, 3))
    assert join_boxes([NOWHERE, somewhere]) == somewhere
    assert join_boxes([]) == NOWHERE
