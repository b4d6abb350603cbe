"""The configuration of a run: a YAML file with the sections below, every field optional.

Unknown sections or fields are refused. The configuration is stored in every checkpoint.
"""

from samcancer.config.files import config_from_dict, config_to_dict, load_config, with_overrides
from samcancer.config.model import (
    SLICE_CONTEXT,
    ClassPrompt,
    Interaction,
    ModelConfig,
    RegionConfig,
    System,
    UniversalConfig,
)
from samcancer.config.recipe import (
    AugmentationConfig,
    Config,
    DataConfig,
    Decay,
    FeatureDtype,
    Optimizer,
    PseudoLabelConfig,
    TrainConfig,
    UnknownLabels,
    WindowHu,
)

__all__ = [
    "SLICE_CONTEXT",
    "AugmentationConfig",
    "ClassPrompt",
    "Config",
    "DataConfig",
    "Decay",
    "FeatureDtype",
    "Interaction",
    "ModelConfig",
    "Optimizer",
    "PseudoLabelConfig",
    "RegionConfig",
    "System",
    "TrainConfig",
    "UniversalConfig",
    "UnknownLabels",
    "WindowHu",
    "config_from_dict",
    "config_to_dict",
    "load_config",
    "with_overrides",
]
