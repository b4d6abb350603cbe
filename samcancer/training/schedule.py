"""Learning rate over a run: linear warm-up, then a decay to 0.

Polynomial as in [SC] section 3, or a cosine as in [UM] section 4, [UM23] and [LV].

Both follow the progress of the run in [0, 1], which is the larger of the share of steps done and,
with a time budget, the share of time used; so a run that is cut short by its budget still decays
to the end.
"""

from __future__ import annotations

import math

from samcancer.config import Decay


def progress_of(
    step: int, total_steps: int, *, elapsed_s: float = 0.0, time_budget_s: float | None = None
) -> float:
    """Return the progress at step number ``step`` (from 0), above 0 and at most 1."""
    by_steps = (step + 1) / (total_steps + 1)
    by_time = 0.0 if time_budget_s is None else elapsed_s / time_budget_s
    return min(max(by_steps, by_time), 1.0)


def learning_rate_factor(
    progress: float, *, warmup_fraction: float, decay_power: float, decay: Decay = "polynomial"
) -> float:
    """Return the learning rate as a share of its peak value."""
    warmup = 1.0 if warmup_fraction == 0 else min(progress / warmup_fraction, 1.0)
    if decay == "cosine":
        return float(warmup * (1.0 + math.cos(math.pi * progress)) / 2)
    return float(warmup * (1.0 - progress) ** decay_power)
