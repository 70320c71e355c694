"""Recipes, schedules and moving averages, against torch's schedulers and closed forms."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from workers.engine.ema import Ema, final_weights
from workers.engine.schedules import SCHEDULES
from workers.engine.train import arguments
from workers.engine.training_config import PRESETS, Config

CARDS = sorted((Path(__file__).parents[2] / "service/assets/models").glob("*/card.json"))


def torch_schedule(config: Config, steps: int) -> list[tuple[float, float]]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], config.lr, config.momentum)
    total = config.epochs * steps
    schedule: Any
    if config.schedule == "one-cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.lr, total, base_momentum=max(config.momentum - 0.1, 0), max_momentum=config.momentum
        )
    else:
        drops = [epoch * steps for epoch in config.lr_drops]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, config.lr_factor)
    seen = []
    for i in range(total):
        seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        optimizer.step()
        if i + 1 < total:
            schedule.step()
    return seen


@pytest.mark.parametrize(
    "config",
    [
        Config(schedule="one-cycle", epochs=5, momentum=0.5),
        Config(schedule="one-cycle", epochs=7, momentum=0.05),
        Config(schedule="step", epochs=6, lr_drops=(2, 3, 5), lr_factor=0.3),
        Config(schedule="constant", epochs=2),
    ],
    ids=lambda c: c.schedule,
)
def test_schedules_are_those_of_torch(config: Config) -> None:
    ours = [SCHEDULES[config.schedule](config, step, 9) for step in range(9 * config.epochs)]
    assert torch.tensor(ours).allclose(torch.tensor(torch_schedule(config, 9)), rtol=1e-6)


def test_a_one_cycle_run_of_a_few_steps_has_finite_rates_below_lr() -> None:
    for epochs in range(1, 6):
        config = Config(epochs=epochs)
        rates = [SCHEDULES["one-cycle"](config, step, 1)[0] for step in range(epochs)]
        assert all(0 < rate <= config.lr for rate in rates)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_recipes_and_survive_json(name: str) -> None:
    config = Config.of(PRESETS[name])
    assert Config.of(json.loads(json.dumps(config.values()))) == config


def test_the_defaults_are_those_the_shipped_networks_were_trained_with() -> None:
    assert Config() == Config.of(PRESETS["cifar-small"])


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.parent.name)
def test_a_card_s_command_gives_the_card_s_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = json.loads(path.read_text())
    words = shlex.split(card["command"])
    monkeypatch.setattr("sys.argv", words[2:])
    given = vars(arguments())
    config = Config.of(
        PRESETS[given.pop("preset")] | {k: v for k, v in given.items() if k not in ("data", "out", "device")}
    )
    recipe = card["recipe"]
    if not recipe["epsilon"]:
        recipe["attack_steps"] = config.attack_steps  # of an attack that is left out
    assert config.values() | recipe == config.values()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "l1"}, "norm is 'l1'; allowed: l2 or linf"),
        ({"schedule": "cosine"}, "schedule is 'cosine'; allowed: one-cycle or step or constant"),
        ({"precision": "fp16"}, "precision is 'fp16'; allowed: fp32 or bf16"),
        ({"epochs": 0}, "epochs is 0; allowed: 1 or more"),
        ({"attack_steps": 0}, "attack_steps is 0; allowed: 1 or more"),
        ({"lr": float("nan")}, "lr is nan; allowed: finite numbers from 0 up"),
        ({"ema": 1.0}, "ema is 1.0; allowed: from 0 up, less than 1"),
        ({"lr_drops": [3, 2]}, r"lr_drops is \(3, 2\); allowed: epochs from 1 up, in increasing order"),
        ({"speed": 1}, "unknown fields speed; allowed: architecture, "),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_with_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.of(change)


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"norm is .*; epochs is .*; momentum is "):
        Config(norm="l0", epochs=0, momentum=1)


def test_no_attack_needs_no_steps() -> None:
    assert replace(Config(), epsilon=0.0, attack_steps=0).attack_steps == 0


def test_the_average_is_the_recurrence_in_float64_and_counters_are_copied() -> None:
    model = nn.BatchNorm1d(3)
    ema, expected = Ema(model, 0.3), torch.zeros(3, dtype=torch.float64)
    for steps in range(1, 8):
        with torch.no_grad():
            model.bias.copy_(torch.tensor([1.0, -2.0, 5.0]) * steps)
        assert model.running_mean is not None
        assert model.num_batches_tracked is not None
        model.running_mean.copy_(model.bias.detach())
        model.num_batches_tracked.add_(1)
        ema.update(model, steps)
        d = min(0.3, (1 + steps) / (10 + steps))
        expected = d * expected + (1 - d) * model.bias.detach().double()
    for name in ("bias", "running_mean"):
        torch.testing.assert_close(ema.state[name].double(), expected, rtol=1e-6, atol=0)
    assert ema.state["num_batches_tracked"] == 7
    assert torch.equal(ema.state["weight"], torch.ones(3))


def test_final_weights_are_the_average_s_or_else_the_model_s() -> None:
    average, live = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    assert final_weights({"ema": average, "model": live}) is average
    assert final_weights({"ema": None, "model": live}) is live
