"""R(x) of a residual network by fused layers, and its gradient, against the network's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workers.engine import models, objectives, residual
from workers.engine.bench_loops import network
from workers.engine.frozen import freeze
from workers.engine.network import Network
from workers.engine.pgd import gradient

CPU = torch.device("cpu")


def frozen(name: str, size: int) -> Network:
    net = freeze(network(name, CPU), torch.rand(2, 3, size, size)).net
    assert isinstance(net, Network)
    return net.double()


@pytest.mark.parametrize("identity_relu", [True, False])
@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 64), ("resnet18", 70), ("resnet18", 65), ("resnext50_32x4d", 64), ("cifar-resnet-small", 32),
     ("cifar-resnet50", 32)],
)  # fmt: skip
def test_fused_layers_are_the_network_and_its_gradient(name: str, size: int, identity_relu: bool) -> None:
    net = frozen(name, size)
    fused = residual.represent(net, identity_relu, torch.float64)
    assert fused
    x = torch.rand(2, 3, size, size, dtype=torch.float64)
    objective = objectives.inversion(torch.rand(2, models.find(name).features, dtype=torch.float64))
    loss, g = gradient(lambda x: net.represent(x, identity_relu), objective, x)
    found, fused_g = gradient(lambda x: fused(x), objective, x)
    torch.testing.assert_close(found.double(), loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(fused_g, g, rtol=1e-5, atol=1e-6 * g.abs().max().item())


@pytest.mark.parametrize("name", ["vgg11", "cifar-wrn16-4", "cifar-vgg11"])
def test_a_network_of_another_form_is_not_fused(name: str) -> None:
    assert residual.represent(network(name, CPU), True, torch.float32) is None


def test_a_network_whose_batch_norms_are_there_is_not_fused() -> None:
    assert residual.represent(network("resnet18", CPU), True, torch.float32) is None


def test_the_kernels_do_what_they_say_in_tritons_interpreter() -> None:
    """In a process of its own: Triton reads whether to interpret when it is imported."""
    file = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
