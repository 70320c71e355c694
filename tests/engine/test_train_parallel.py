"""Two processes give what one gives on the same batches; batch statistics and decisions are shared."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.training import ROBUST, assert_equal_states, cifar_folder, images, read, trainer, without_times
from workers.engine.parallel import World
from workers.engine.sources import Memory
from workers.engine.train import run
from workers.engine.trainer import Trainer
from workers.engine.training_config import Config

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from tests.engine.test_train_parallel import doubles
from workers.engine import parallel
from workers.engine.train import Observer, run
from workers.engine.training_config import Config

class OneAsks(Observer):
    def should_stop(self):
        return world.rank == 1 and t.step == stop_at

out, stop_at, values = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
world, device = parallel.join("cpu")
t = doubles(Config.of(values), world)
torch.manual_seed(world.rank)
finished = run(t, None, out, observer=OneAsks(), check_seconds=0)
(out / f"end-{world.rank}.json").write_text(json.dumps([finished, t.step]))
torch.save(t.model.state_dict(), out / f"weights-{world.rank}.pt")
parallel.leave()
"""
NORM = """
import sys
from pathlib import Path
import torch
from torch import nn
from workers.engine import parallel
world, _ = parallel.join("cpu")
out = Path(sys.argv[1])
given = torch.load(out / "given.pt")
net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Conv2d(4, 2, 1)).double()
net.load_state_dict(given["state"])
parallel._synchronise(net, parallel.SyncBatchNorm)
x = given["x"][world.part(len(given["x"]))].requires_grad_(True)
(net(x).pow(3).sum()).backward()
torch.save({"grad": x.grad, "state": net.state_dict(), "weight": net[0].weight.grad}, out / f"{world.rank}.pt")
parallel.leave()
"""


def program(text: str, folder: Path) -> list[str]:
    (folder / "program.py").write_text(text)
    return [str(folder / "program.py")]


def torchrun(folder: Path, *args: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr


class Double(Trainer):
    def images(self, pixels: Tensor) -> Tensor:
        return super().images(pixels).double()


def doubles(config: Config, world: World | None = None) -> Trainer:
    """In float64 rounding does not grow over a few steps to what could hide a mistake."""
    torch.set_default_dtype(torch.float64)
    try:
        return Double(config, Memory(images(32), "cifar"), world=world)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.0, 1.0], ids=["standard", "robust"])
def test_two_processes_give_the_weights_of_one_also_when_one_of_them_asks_for_a_stop(
    tmp_path: Path, epsilon: float
) -> None:
    config, two = replace(ROBUST, ema=0.9, epsilon=epsilon), tmp_path / "two"
    run(doubles(config), None, tmp_path / "one")
    two.mkdir()
    for stop_at, expected in ((3, [False, 3]), (0, [True, 8])):
        torchrun(two, *program(PROGRAM, two), str(two), str(stop_at), json.dumps(config.values()))
        assert [json.loads((two / f"end-{rank}.json").read_text()) for rank in (0, 1)] == [expected] * 2
    assert_equal_states(*(read(two / f"weights-{rank}.pt") for rank in (0, 1)))
    one, both = read(tmp_path / "one" / "checkpoint.pt"), read(two / "checkpoint.pt")
    start = doubles(config).model.state_dict()["conv.weight"]
    assert (one["model"]["conv.weight"] - start).abs().max() > 0.01, "the case needs weights that move"
    for part in ("model", "ema"):
        torch.testing.assert_close(both[part], one[part], rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(*(without_times(state["history"]) for state in (both, one)), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
def test_the_command_runs_under_torchrun(tmp_path: Path) -> None:
    flags = ["--batch-size", "64", "--epochs", "1", "--attack-steps", "1", "--architecture", "cifar-resnet-slim"]
    data, out = str(cifar_folder(tmp_path)), str(tmp_path / "out")
    torchrun(tmp_path, "-m", "workers.engine.train", "--device", "cpu", "--data", data, "--out", out, *flags)
    (line,) = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert {"clean_accuracy", "pgd10_accuracy", "train_accuracy", "data_wait"} <= json.loads(line).keys()
    assert read(tmp_path / "out" / "checkpoint.pt")["step"] == 6


@pytest.mark.slow
def test_batch_norm_over_two_processes_is_that_of_the_whole_batch_with_its_gradient(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4, momentum=0.3), torch.nn.Conv2d(4, 2, 1))
    net, x = net.double(), torch.randn(6, 3, 5, 5, dtype=torch.float64) * torch.arange(1, 7).view(6, 1, 1, 1)
    torch.save({"state": net.state_dict(), "x": x.clone()}, tmp_path / "given.pt")
    net(x.requires_grad_(True)).pow(3).sum().backward()
    torchrun(tmp_path, *program(NORM, tmp_path), str(tmp_path))
    parts = [read(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    assert x.grad is not None
    close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(torch.cat([part["grad"] for part in parts]), x.grad, **close)
    torch.testing.assert_close(parts[0]["weight"] + parts[1]["weight"], net[0].weight.grad, **close)
    for part in parts:
        assert part["state"].keys() == net.state_dict().keys()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(part["state"][name], value, **close)


def test_a_batch_is_shared_equally_or_refused() -> None:
    shares = [World(rank, 4).part(12) for rank in range(4)]
    assert [list(range(12))[share] for share in shares] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    with pytest.raises(ValueError, match="batch_size is 8; allowed: multiples of 3, the number of processes"):
        trainer(ROBUST, world=World(0, 3))
