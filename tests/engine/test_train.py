"""Training: resumed runs, refused checkpoints, kills, divergence, and the attack inside an update."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from workers.engine.datasets import Images
from workers.engine.evaluate import correct
from workers.engine.seeding import generator
from workers.engine.train import Config, Trainer, run, save

ROBUST = Config(batch_size=8, epochs=2, epsilon=1.0, attack_steps=1, attack_step_size=0.75)
STANDARD = replace(ROBUST, epsilon=0.0)


def images(n: int, seed: int = 0) -> Images:
    """Ten classes, each a flat colour of its own under noise: easy to learn."""
    random = np.random.RandomState(seed)
    labels = torch.from_numpy(random.randint(0, 10, n))
    colours = torch.from_numpy(np.random.RandomState(9).randint(60, 196, (10, 3, 1, 1)))
    pixels = colours[labels] + torch.from_numpy(random.randint(-30, 31, (n, 3, 32, 32)))
    return Images(pixels.to(torch.uint8), labels)


def assert_equal_states(a: Any, b: Any) -> None:
    """The same keys and values to the last bit, all the way down."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal_states(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


class KilledError(Exception):
    """Stands for whatever ends a process."""


class Mortal(Trainer):
    """Dies on its way into update number `last`."""

    last = 6

    def update(self, x: Tensor, label: Tensor) -> Tensor:
        if self.step == self.last:
            raise KilledError
        return super().update(x, label)


class Watched(Trainer):
    """Keeps what the network is asked: the mode it is in, and the images."""

    asked: tuple[tuple[bool, Tensor], ...] = ()

    def logits(self, x: Tensor) -> Tensor:
        self.asked += ((self.model.training, x.detach().clone()),)
        return super().logits(x)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_seconds", [-1, 1e9], ids=["a checkpoint each step", "one an epoch"])
def test_a_run_killed_in_mid_epoch_and_resumed_ends_like_an_unbroken_one(
    tmp_path: Path, checkpoint_seconds: float
) -> None:
    train, test = images(36), images(8, 1)
    run(Trainer(ROBUST, train, "cpu"), test, tmp_path / "unbroken")
    with pytest.raises(KilledError):
        run(Mortal(ROBUST, train, "cpu"), test, tmp_path / "broken", checkpoint_seconds)
    assert read(tmp_path / "broken" / "checkpoint.pt")["step"] == (6 if checkpoint_seconds < 0 else 4)
    run(Trainer(ROBUST, train, "cpu"), test, tmp_path / "broken", checkpoint_seconds)
    unbroken, broken = (read(tmp_path / name / "checkpoint.pt") for name in ("unbroken", "broken"))
    assert unbroken["step"] == 8
    assert_equal_states(broken, unbroken)
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("unbroken", "broken")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["epoch"] for line in logs[0].splitlines()] == [1, 2]


@pytest.mark.slow
def test_standard_training_learns_and_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    config = replace(STANDARD, batch_size=32, epochs=4, lr=0.05)
    trainer, test = Trainer(config, images(256), "cpu"), images(100, 1)
    run(trainer, test, tmp_path)
    trainer.model.eval()
    assert correct(trainer.model, test, 0, 0).double().mean() > 0.5  # 0.1 is chance
    written = (tmp_path / "checkpoint.pt").read_bytes(), (tmp_path / "log.jsonl").read_bytes()
    run(Trainer(config, images(256), "cpu"), test, tmp_path)
    assert ((tmp_path / "checkpoint.pt").read_bytes(), (tmp_path / "log.jsonl").read_bytes()) == written


@pytest.mark.parametrize("change", [{"lr": 0.1}, {"epsilon": 0.5}, {"epochs": 3}, {"seed": 1}])
def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    save(Trainer(ROBUST, images(16), "cpu").state(), tmp_path / "checkpoint.pt")
    other = Trainer(replace(ROBUST, **change), images(16), "cpu")
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
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SAVES_FOR_EVER, str(path)], cwd=root) as child:
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
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path, epsilon: float) -> None:
    config = replace(ROBUST, lr=1e30, epsilon=epsilon)
    save(Trainer(config, images(32), "cpu").state(), tmp_path / "checkpoint.pt")
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(FloatingPointError, match="the last checkpoint is kept"):
        run(Trainer(config, images(32), "cpu"), images(8), tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_an_update_trains_on_images_within_eps_which_it_finds_in_eval_mode() -> None:
    trainer = Watched(replace(ROBUST, attack_steps=3), images(32), "cpu")
    x, label = next(trainer.batches())
    trainer.update(x, label)
    assert [training for training, _ in trainer.asked] == [False, False, False, True]
    _, trained_on = trainer.asked[-1]
    assert trained_on.min() >= 0
    assert trained_on.max() <= 1
    moved = (trained_on - x).double().flatten(1).norm(dim=1)
    assert (moved <= 1.0 * (1 + 1e-5)).all()
    assert (moved > 0.1).all()


def test_an_update_of_standard_training_asks_once_with_the_images_themselves() -> None:
    trainer = Watched(STANDARD, images(32), "cpu")
    x, label = next(trainer.batches())
    trainer.update(x, label)
    ((training, trained_on),) = trainer.asked
    assert training
    assert torch.equal(trained_on, x)


def test_the_attack_of_an_update_leaves_the_batch_statistics_alone() -> None:
    trainer = Watched(ROBUST, images(32), "cpu")
    trainer.update(*next(trainer.batches()))
    assert trainer.model.get_buffer("bn.num_batches_tracked") == 1


def test_an_update_in_bf16_keeps_float32_weights_and_nearly_the_same_loss() -> None:
    losses = []
    for precision in ("fp32", "bf16"):
        trainer = Trainer(replace(STANDARD, precision=precision), images(32), "cpu")
        losses.append(trainer.update(*next(trainer.batches())).item())
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_an_epoch_shows_each_image_at_most_once_in_an_order_of_its_own() -> None:
    data = images(35)
    trainer, epochs = Trainer(STANDARD, Images(data.pixels, torch.arange(35)), "cpu"), []
    for _ in range(2):
        shown: list[int] = []
        for _, label in trainer.batches():
            shown += label.tolist()
            trainer.step += 1
        assert len(set(shown)) == len(shown) == 32
        epochs.append(shown)
    assert epochs[0] != epochs[1]


def test_batches_taken_up_in_mid_epoch_are_the_rest_of_the_unbroken_epoch() -> None:
    whole, resumed = (Trainer(ROBUST, images(32), "cpu") for _ in range(2))
    unbroken = []
    for batch in whole.batches():
        unbroken.append(batch)
        whole.step += 1
    resumed.step = 2
    for (x, label), (expected_x, expected_label) in zip(resumed.batches(), unbroken[2:], strict=True):
        assert torch.equal(x, expected_x)
        assert torch.equal(label, expected_label)
        resumed.step += 1


def test_the_seed_alone_decides_the_first_weights_and_the_global_generator_is_not_touched() -> None:
    before = torch.random.get_rng_state()
    trainers = (Trainer(replace(ROBUST, seed=s), images(16), "cpu") for s in (0, 0, 1))
    first, again, other = (trainer.model.get_parameter("linear.weight") for trainer in trainers)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_generators_of_different_keys_draw_different_numbers() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 1, 1), (0, 2, 0), (0, 0, 2), (2, 0, 0)]
    assert len({torch.randn((), generator=generator(*key)).item() for key in keys}) == len(keys)
    assert torch.equal(torch.randn(5, generator=generator(3, 1, 4)), torch.randn(5, generator=generator(3, 1, 4)))


def test_momentum_falls_while_the_learning_rate_rises_and_returns() -> None:
    trainer = Trainer(replace(STANDARD, momentum=0.5, epochs=5), images(32), "cpu")  # 20 steps: the peak falls on one
    group = trainer.optimizer.param_groups[0]
    seen = []
    for _ in range(trainer.schedule.total_steps - 1):
        seen.append((group["lr"], group["momentum"]))
        trainer.optimizer.step()
        trainer.schedule.step()
    peak = seen.index(max(seen))
    assert seen[0][1] == 0.5
    assert seen[peak] == pytest.approx((STANDARD.lr, 0.4))
    assert group["momentum"] == pytest.approx(0.5)
