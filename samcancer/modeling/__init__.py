"""The networks; they know tensors only, no files."""

from samcancer.modeling.build import build_model
from samcancer.modeling.counting import (
    count_multiply_adds,
    count_multiply_adds_by_part,
    count_parameters,
)
from samcancer.modeling.outputs import NetOutput
from samcancer.modeling.samcancer_net import SamCancerNet

__all__ = [
    "NetOutput",
    "SamCancerNet",
    "build_model",
    "count_multiply_adds",
    "count_multiply_adds_by_part",
    "count_parameters",
]
