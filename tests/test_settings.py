"""`--set path=value`: the settings model itself says what is known and what is valid."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainer import ConfigError, FitConfig, explain, with_overrides

BASE = FitConfig.model_validate({"task": {"name": "classification", "target": "label"}})


def test_a_value_is_changed_at_its_path_and_nothing_else():
    changed = with_overrides(BASE, ["optimizer.weight_decay=0.5", "epochs=2"])

    expected = BASE.model_dump()
    expected["optimizer"]["weight_decay"] = 0.5
    expected["epochs"] = 2
    assert changed.model_dump() == expected


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("optimizer.learning_rates=[1e-4,1e-3]", "optimizer.learning_rates", (1e-4, 1e-3)),
        ("optimizer.learning_rates=1e-4", "optimizer.learning_rates", (1e-4,)),
        ("optimizer.clip_norm=null", "optimizer.clip_norm", None),
        ("pooling=first", "pooling", "first"),
        ("task.target=2024", "task.target", "2024"),
        ("network.layers=[1,2]", "network.layers", (1, 2)),
        ("network.bias=false", "network.bias", False),
        ("early_stopping=3", "early_stopping", 3),
    ],
)
def test_values_are_json_or_text_and_take_the_type_of_their_setting(override, path, value):
    changed = with_overrides(BASE, [override])

    for key in path.split("."):
        changed = getattr(changed, key)
    assert changed == value


def test_another_network_starts_from_its_own_defaults():
    """`reduction` belongs to UniPT: it must not be carried over to the probe as an unknown key."""
    changed = with_overrides(BASE, ["network.hidden=32", "network.name=mlp-probe"])

    assert changed.network.model_dump() == {
        "name": "mlp-probe",
        "stream": None,
        "layer": None,
        "hidden": 32,
        "width": None,
        "dropout": 0.0,
    }


def test_a_preset_sets_the_options_it_stands_for():
    """The dumped settings hold every option, and would otherwise win over the new preset."""
    changed = with_overrides(BASE, ["network.reduction=4", "network.preset=paper"])

    assert (changed.network.norm, changed.network.bias, changed.network.reduction) == (
        "none",
        False,
        4,
    )


def test_another_task_may_follow_with_its_target():
    changed = with_overrides(BASE, ["task.target=score", "task.name=regression"])

    assert changed.task.model_dump() == {
        "name": "regression",
        "target": "score",
        "best_by": "mse",
    }


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.weigth_decay=1"], ["optimizer.weigth_decay", "'weight_decay'"]),
        (["epoch=1"], ["epoch: unknown key", "'epochs'"]),
        (["network.reducton=4"], ["network.reducton", "'reduction'"]),
        (["network.name=probe", "network.reduction=4"], ["network.reduction", "unknown key"]),
        (["epochs.x=1"], ["epochs.x", "epochs is a value"]),
        (["epochs=zero"], ["epochs", "'zero'"]),
        (["epochs=0"], ["epochs", "greater than 0"]),
        (["network.name=unitp"], ["network", "'unitp' is unknown", "'unipt'", "'probe'"]),
        (["task.name=translation"], ["task", "'translation'", "'classification'"]),
        (["optimizer.learning_rates=[1e-3,1e-3]"], ["optimizer.learning_rates", "different"]),
        (["pooling=max"], ["pooling", "'max'", "'mean'"]),
        (["epochs"], ["path=value"]),
        (["epoch=1", "batch=2", "seed=-1"], ["'epochs'", "'batch_size'", "seed", "-1"]),
    ],
)
def test_every_problem_is_reported_with_its_path(overrides, words):
    with pytest.raises(ConfigError) as caught:
        with_overrides(BASE, overrides)

    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("reduction", "network.reduction"),
        ("lr", "optimizer.learning_rates"),
        ("weight_decay", "optimizer.weight_decay"),
        ("warmup", "schedule.warmup"),
    ],
)
def test_a_setting_of_a_section_is_named_with_its_path(key, path):
    """`reduction` was taken for `precision`, and `lr` for nothing."""
    with pytest.raises(ConfigError, match=rf"--set: {key}: unknown key, did you mean '{path}'\?"):
        with_overrides(BASE, [f"{key}=4"])


def test_a_wrong_entry_of_a_list_is_one_problem():
    """Without it the list is too short as well, which nobody asked."""
    with pytest.raises(ValidationError) as caught:
        FitConfig.model_validate(
            {
                "task": {"name": "classification", "target": "label"},
                "optimizer": {"learning_rates": [float("nan")]},
            }
        )

    (problem,) = explain(caught.value, FitConfig)
    assert "optimizer.learning_rates.0: input should be a finite number, found nan" in problem


def test_a_document_is_explained_whole_with_the_nearest_known_keys():
    document = {
        "task": {"name": "classification", "taget": "label"},
        "network": {"name": "probe", "layr": 3},
        "epochs": "many",
        "learning_rate": 1,
    }

    with pytest.raises(ValidationError) as caught:
        FitConfig.model_validate(document)
    problems = explain(caught.value, FitConfig)

    assert problems == [
        "task.target: is needed",
        "task.taget: unknown key, did you mean 'target'?",
        "network.layr: unknown key, did you mean 'layer'?",
        "epochs: input should be a valid integer, unable to parse string as an integer, "
        "found 'many'",
        "learning_rate: unknown key, did you mean 'optimizer.learning_rates'? "
        "Set it with overrides or --set: optimizer.learning_rates=VALUE",
    ]
