"""Runs: resumed, stopped, refused, killed, diverged; what they tell, and the checkpoints they leave."""

import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.training import ROBUST, assert_equal_states, cifar_folder, images, read, trainer, without_times
from workers.engine.ema import final_weights
from workers.engine.evaluate import correct
from workers.engine.train import Diverged, Observer, run, save
from workers.engine.trainer import Trainer

ROOT = Path(__file__).parents[2]
FULL = replace(ROBUST, epochs=3, ema=0.9, schedule="step", lr_drops=(1, 2), lr=0.05)


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Mortal(Observer):
    """Dies when `last` steps are done."""

    last = 6

    def progress(self, step: int, steps: int, loss: float, images_per_second: float) -> None:  # noqa: ARG002
        if step == self.last:
            raise KilledError


class Watching(Observer):
    """Keeps all that a run tells; asks it to stop when `stop_at` steps are done."""

    def __init__(self, stop_at: int = 0) -> None:
        self.stop_at = stop_at
        self.steps: list[int] = []
        self.epochs: list[dict[str, Any]] = []
        self.checkpoints: list[int] = []

    def progress(self, step: int, steps: int, loss: float, images_per_second: float) -> None:
        assert 0 < step <= steps
        assert images_per_second > 0
        assert math.isfinite(loss)
        self.steps.append(step)

    def epoch(self, metrics: dict[str, Any]) -> None:
        self.epochs.append(metrics)

    def checkpoint(self, path: Path) -> None:
        self.checkpoints.append(read(path)["step"])

    def should_stop(self) -> bool:
        return bool(self.steps) and self.steps[-1] + 1 == self.stop_at


def with_dropout(t: Trainer) -> Trainer:
    model: Any = t.model
    model.linear = nn.Sequential(nn.Dropout(0.5), model.linear)
    t.optimizer = torch.optim.SGD(t.model.parameters(), t.config.lr, t.config.momentum)
    t.ema = type(t.ema)(t.model, t.config.ema) if t.ema else None
    return t


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_seconds", [-1, 1e9], ids=["a checkpoint each step", "one an epoch"])
@pytest.mark.parametrize("config", [ROBUST, FULL], ids=["one-cycle", "steps, moving average"])
def test_a_run_killed_in_mid_epoch_and_resumed_ends_like_an_unbroken_one(
    tmp_path: Path, checkpoint_seconds: float, config: Any
) -> None:
    test = images(8, 1)
    run(trainer(config, 36), test, tmp_path / "unbroken")
    with pytest.raises(KilledError):
        run(trainer(config, 36), test, tmp_path / "broken", checkpoint_seconds, Mortal(), 0)
    assert read(tmp_path / "broken" / "checkpoint.pt")["step"] == (5 if checkpoint_seconds < 0 else 4)
    run(trainer(config, 36), test, tmp_path / "broken", checkpoint_seconds, None, 0)
    unbroken, broken = (read(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "broken"))
    assert unbroken["step"] == 4 * config.epochs
    assert (unbroken["ema"] is None) == (config.ema == 0)
    logs = [state.pop("history") for state in (unbroken, broken)]
    assert_equal_states(broken, unbroken)
    assert without_times(logs[0]) == without_times(logs[1])
    lines = [json.loads(line) for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert lines == logs[1]
    assert [line["epoch"] for line in lines] == list(range(1, config.epochs + 1))


@pytest.mark.slow
def test_a_network_with_dropout_draws_the_same_when_resumed(tmp_path: Path) -> None:
    config = replace(FULL, epsilon=0.0)
    run(with_dropout(trainer(config)), None, tmp_path / "unbroken")
    run(with_dropout(trainer(config)), None, tmp_path / "broken", observer=Watching(stop_at=6), check_seconds=0)
    torch.rand(100)
    run(with_dropout(trainer(config)), None, tmp_path / "broken")
    unbroken, broken = (read(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "broken"))
    assert without_times(unbroken.pop("history")) == without_times(broken.pop("history"))
    assert_equal_states(broken, unbroken)


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_does_so_at_a_checkpoint_and_goes_on_from_there(tmp_path: Path) -> None:
    config, watching = replace(ROBUST, epsilon=0.0), Watching(stop_at=3)
    assert not run(trainer(config), images(8), tmp_path, observer=watching, check_seconds=0)
    assert watching.steps == [1, 2, 3]
    assert watching.checkpoints == [3]
    again = Watching()
    assert run(trainer(config), images(8), tmp_path, observer=again, check_seconds=0)
    assert again.steps == [4, 5, 6, 7, 8]
    assert again.checkpoints == [4, 8]
    assert [metrics["epoch"] for metrics in again.epochs] == [1, 2]


@pytest.mark.slow
def test_standard_training_learns_and_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = replace(ROBUST, batch_size=32, epochs=4, lr=0.05, epsilon=0.0)
    t, test, watching = trainer(config, 256), images(100, 1), Watching()
    assert run(t, test, tmp_path, observer=watching)
    hits = correct(t.model.eval(), test, 0, 0).double().mean().item()
    assert hits > 0.5  # 0.1 is chance
    last = watching.epochs[-1]
    assert last["clean_accuracy"] == pytest.approx(hits)
    assert last["train_accuracy"] > 0.5
    assert last["train_loss"] < watching.epochs[0]["train_loss"]
    assert last["images_per_second"] == pytest.approx(256 / last["seconds"])
    assert 0 <= last["data_wait"] < 1
    assert "pgd10_accuracy" not in last
    written = (tmp_path / "checkpoint.pt").read_bytes()
    assert run(trainer(config, 256), test, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == written


def test_accuracies_and_final_weights_are_those_of_the_moving_average(tmp_path: Path) -> None:
    config, watching, test = replace(ROBUST, epochs=1, ema=0.99), Watching(), images(40, 1)
    t = trainer(config)
    run(t, test, tmp_path, observer=watching)
    weights = final_weights(read(tmp_path / "checkpoint.pt"))
    assert not torch.equal(weights["linear.weight"], t.model.state_dict()["linear.weight"])
    t.model.load_state_dict(weights)
    for name, eps, steps in (("clean_accuracy", 0.0, 0), ("pgd10_accuracy", 1.0, 10)):
        assert watching.epochs[0][name] == pytest.approx(
            correct(t.model.eval(), test, eps, steps).double().mean().item()
        )


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"epsilon": 0.5}, {"epochs": 3}, {"seed": 1}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(trainer().state(), tmp_path / "checkpoint.pt")
    other = trainer(replace(ROBUST, **change))
    with pytest.raises(ValueError, match="the checkpoint was trained with"):
        run(other, images(8), tmp_path)
    assert other.step == 0


class Unsavable:
    """Fails when it is the turn of its bytes to be written."""

    def __reduce__(self) -> str:
        raise KilledError


def test_a_save_that_dies_half_way_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save({"step": 1, "model": {"w": torch.ones(1000)}}, path)
    with pytest.raises(KilledError):
        save({"step": 2, "model": {"w": torch.zeros(1000)}, "rest": Unsavable()}, path)
    assert_equal_states(read(path), {"step": 1, "model": {"w": torch.ones(1000)}})
    save({"step": 3}, path)
    assert read(path) == {"step": 3}
    assert list(tmp_path.iterdir()) == [path]


def values(state: dict[str, Tensor]) -> set[float]:
    return {bound.item() for tensor in state.values() for bound in tensor.aminmax()}


SAVES_FOR_EVER = """
import itertools, pathlib, sys, torch
from workers.engine.train import save
for i in itertools.count():
    save({str(n): torch.full((50, 1000), float(i)) for n in range(10)}, pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_reader_sees_whole_checkpoints_while_they_are_written_and_after_a_kill(tmp_path: Path) -> None:
    path, seen = tmp_path / "checkpoint.pt", set[float]()
    with subprocess.Popen([sys.executable, "-c", SAVES_FOR_EVER, str(path)], cwd=ROOT) as child:
        try:
            while not path.exists():
                assert child.poll() is None, "the writer died"
                time.sleep(0.05)
            for _ in range(20):  # each one whole, or else unreadable
                seen |= values(read(path))
        finally:
            child.kill()
    state = read(path)
    assert len(state) == 10
    assert len(values(state)) == 1, "one save and no other"
    assert len(seen) > 1, "the case needs a file that changes"


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("check_seconds", [0, 1e9], ids=["seen at once", "seen at the epoch's end"])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, epsilon: float, check_seconds: float
) -> None:
    config = replace(ROBUST, lr=1e30, epsilon=epsilon)
    save(trainer(config).state(), tmp_path / "checkpoint.pt")
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(Diverged, match="the last checkpoint is kept") as caught:
        run(trainer(config), images(8), tmp_path, check_seconds=check_seconds)
    assert isinstance(caught.value, FloatingPointError)
    assert caught.value.step in ((2, 3, 4) if check_seconds == 0 else (4,))
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_never_saved_though_the_loss_before_them_is(
    tmp_path: Path, value: float
) -> None:
    class Spoiler(Observer):
        def progress(self, *_: Any) -> None:
            with torch.no_grad():
                t.model.get_parameter("linear.weight")[0, 0] = value

    t = trainer(replace(ROBUST, epsilon=0.0))
    with pytest.raises(Diverged, match="the weights or logits are not finite at step 1"):
        run(t, None, tmp_path, checkpoint_seconds=-1, observer=Spoiler(), check_seconds=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_trains_on_a_folder_stops_at_a_sigterm_and_goes_on(tmp_path: Path) -> None:
    data, out = cifar_folder(tmp_path), tmp_path / "out"
    command = [
        sys.executable, "-m", "workers.engine.train", "--data", str(data), "--out", str(out), "--device", "cpu",
        "--batch-size", "32", "--architecture", "cifar-resnet-slim", "--epochs",
    ]  # fmt: skip
    with subprocess.Popen([*command, "500", "--schedule", "constant"], cwd=ROOT, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        child.stderr.readline()  # the first epoch's accuracy
        child.send_signal(signal.SIGTERM)
        child.stderr.read()
    assert child.returncode == 143
    stopped = read(out / "checkpoint.pt")
    assert 0 < stopped["step"] < 500 * 12
    assert stopped["config"]["lr"] == 0.2
    done = subprocess.run([*command, "500"], cwd=ROOT, capture_output=True, text=True)
    assert "the checkpoint was trained with" in done.stderr
