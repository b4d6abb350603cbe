from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from samcancer.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    TrainConfig,
    config_from_dict,
    config_to_dict,
    load_config,
    with_overrides,
)
from samcancer.errors import InputError

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_the_recipe_of_the_paper_is_the_default_but_for_the_encoder() -> None:
    recipe = load_config(Path(__file__).parents[1] / "configs" / "samcancer.yaml")
    assert recipe.train == TrainConfig()
    assert recipe.augmentation == AugmentationConfig()
    assert recipe.data.train_windows_hu == DataConfig().train_windows_hu
    assert recipe.model.encoder == "sam_vit_b"
    assert (recipe.train.learning_rate, recipe.train.batch_size, recipe.train.epochs) == (
        5e-4,
        16,
        80,
    )


def test_a_configuration_survives_yaml() -> None:
    config = Config(model=ModelConfig(cnn_width=12), train=TrainConfig(time_budget_s=30))
    text = yaml.safe_dump(config_to_dict(config))
    assert config_from_dict(yaml.safe_load(text)) == config


def test_no_file_gives_the_defaults() -> None:
    assert load_config(None) == Config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "unknown field train.epoch; allowed are .*epochs"),
        ("nets: {}", "unknown field nets"),
        ("train: 3", "train. must be a mapping"),
        ("train: {epochs: many}", "train.epochs must be int, got 'many'"),
        ("train: {epochs: 0}", "train.epochs is out of range: 0"),
        ("train: {epochs: true}", "train.epochs must be int"),
        ("train: {validate_every: 0}", "train.validate_every is out of range: 0"),
        ("model: {image_size: 100}", "model.image_size .a multiple of 16. is out of range: 100"),
        ("model: {interaction: none}", "model.interaction must be"),
        ("data: {train_windows_hu: [[300, -200]]}", "data window is out of range"),
        ("data: {train_windows_hu: [[300]]}", "data.train_windows_hu must be"),
        ("model: {class_prompt: words}", "model.class_prompt must be Literal"),
        ("model: {text_embeddings: a}", "model.text_embeddings .only for the class prompts text"),
        ("model: {system: unet}", "model.system"),
        ("model: {universal: {overlap: 1.0}}", "model.universal.overlap"),
        ("train: {optimizer: lion}", "train.optimizer"),
        (
            "pseudo_labels: {min_teacher_dice: 2}",
            "pseudo_labels.min_teacher_dice is out of range",
        ),
        ("pseudo_labels: {lesion_above: 0.1}", "pseudo_labels.ignore_above is out of range"),
        ("folds: 1", "folds is out of range: 1"),
        ("folds: 3\ntrain: {final_held_out_fold: 3}", "final_held_out_fold is out of range: 3"),
        ("train: [", "not valid YAML"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_its_name(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("assignment", "section", "field", "value"),
    [
        ("train.epochs=3", "train", "epochs", 3),
        ("train.learning_rate=5e-4", "train", "learning_rate", 5e-4),
        ("train.time_budget_s=null", "train", "time_budget_s", None),
        ("train.time_budget_s=60", "train", "time_budget_s", 60.0),
        ("train.unknown_labels=background", "train", "unknown_labels", "background"),
        ("data.train_windows_hu=[[-200, 300]]", "data", "train_windows_hu", ((-200.0, 300.0),)),
        ("augmentation.flip=true", "augmentation", "flip", True),
    ],
)
def test_an_assignment_changes_its_field(
    assignment: str, section: str, field: str, value: Any
) -> None:
    changed = getattr(getattr(with_overrides(Config(), [assignment]), section), field)
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    "assignment", ["train.epoch=3", "epochs", "train=3", "train.epochs=x", "folds.x=1", "=", "a.b="]
)
def test_a_bad_assignment_is_refused(assignment: str) -> None:
    with pytest.raises(InputError, match="--set"):
        with_overrides(Config(), [assignment])


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()
    for name in field_names(config_to_dict(Config())):
        assert f"`{name}`" in text or f"## {name}" in text, name


def field_names(content: dict[str, Any]) -> Iterator[str]:
    for name, value in content.items():
        yield name
        if isinstance(value, dict):
            yield from field_names(value)
