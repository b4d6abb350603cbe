"""The systems of the five papers side by side on synthetic patients, with the same budget.

Small versions of each, for two CPU cores: what they share with the papers is the architecture, the
kind of training and the way from partial labels to masks, not the size. Example:
``python benchmarks/systems.py --output systems``
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from arms import Arm, option_parser, run_experiment

_VOLUME = "configs/demo_universal.yaml"

ARMS = (
    Arm(title="SAMCancer", runs="samcancer", folds=True),
    Arm(title="Universal Model", runs="universal", config=_VOLUME, folds=True),
    Arm(
        title="Universal Model, FLARE23",
        runs="flare23",
        config=_VOLUME,
        sets=(
            "model.universal.backbone=segresnet",
            "model.universal.width=8",
            "train.optimizer=novograd",
            "train.learning_rate=0.01",
        ),
    ),
    Arm(
        title="language-guided",
        runs="language",
        config=_VOLUME,
        sets=(
            "data.train_windows_hu=[[-700,300]]",
            "data.inference_window_hu=[-700,300]",
            "data.max_per_category=10",
            "train.optimizer=sgd",
            "train.momentum=0.99",
            "train.learning_rate=0.01",
        ),
    ),
    Arm(
        title="two-stage",
        runs="two_stage",
        config=_VOLUME,
        sets=("model.universal.head=plain",),
        folds=True,
        final="final",
        final_options="--set model.universal.width=8",
        region=True,
    ),
    Arm(
        title="SAMCancer + Universal Model, fused",
        runs="fused",
        fused=("samcancer", "universal"),
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run every system; what is finished is not done again."""
    parser = option_parser(__doc__)
    args = parser.parse_args(argv)
    return run_experiment("systems", "systems.py", ARMS, args, argv)


if __name__ == "__main__":
    sys.exit(main())
