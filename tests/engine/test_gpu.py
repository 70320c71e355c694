"""On a GPU: the batcher's graphs, precisions and pinned buckets, against the plain loop and against each other."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.engine.networks import pixels, small
from workers.engine import models, objectives
from workers.engine.batcher import Batcher
from workers.engine.bench_loops import network
from workers.engine.descent import Precision, descent
from workers.engine.glances import Glance
from workers.engine.lanes import Program, tf32
from workers.engine.network import Network
from workers.engine.pgd import gradient, pgd
from workers.engine.rows import Outcome, Row

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
GPU = torch.device("cuda")
STEPS = 40
STARTS, TARGETS = pixels(1, 16, size=32), pixels(2, 16, size=32)


def program(precision: Precision = "fp32", solver: str = "pgd", bucket: int | None = None) -> Program:
    f = descent(small().to(GPU), "penultimate", False, "mean", precision, 32)
    return Program("small", f, (3, 32, 32), 8, GPU, precision, solver, bucket)


def rows(count: int, steps: int = STEPS) -> list[Row]:
    aims = small().represent(TARGETS)
    return [Row(STARTS[i], STARTS[i], aims[i], True, 1000.0, 0.1, steps + i) for i in range(count)]


def run(of: Program, asked: list[Row], batcher: Batcher | None = None) -> dict[int, Outcome]:
    batcher = batcher or Batcher()
    ticket = batcher.submit(of, asked)
    while batcher.step():
        pass
    found = {outcome.number: outcome for outcome in ticket.completed(0)}
    assert [outcome.error for outcome in found.values()] == [None] * len(asked)
    return found


def test_the_batcher_is_the_plain_loop_and_its_steps_are_replayed_from_graphs() -> None:
    batcher, of = Batcher(), program()
    found = run(of, rows(8), batcher)
    (place,) = batcher.places.values()
    assert place.lane.graphs  # captured, not fallen back
    aims = small().represent(TARGETS).to(GPU)
    x = STARTS[:1].to(GPU)
    with tf32(False):
        expected = pgd(of.f, objectives.inversion(aims[:1]), x, x, 1000.0, 0.1, STEPS)
    torch.testing.assert_close(found[0].x, expected[0].cpu(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", ["pgd", "momentum", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_pinned_row_is_bitwise_the_same_alone_and_among_others(precision: Precision, solver: str) -> None:
    of = program(precision, solver, bucket=16)
    alone, among = run(of, rows(1))[0], run(of, rows(16))[0]
    assert torch.equal(alone.x, among.x)
    assert torch.equal(alone.loss, among.loss)


@pytest.mark.parametrize("identity_relu", [True, False])
@pytest.mark.parametrize("name", ["resnet50", "resnet18", "resnext50_32x4d", "cifar-resnet-small", "cifar-resnet50"])
def test_the_fast_way_through_a_residual_network_is_its_gradient(name: str, identity_relu: bool) -> None:
    net = network(name, GPU)
    size, layer = models.find(name).size, "penultimate"
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1)).to(GPU)
    aims = objectives.inversion(torch.rand(3, models.find(name).features, device=GPU))
    with tf32(False):
        exact = gradient(lambda x: net.represent(x, identity_relu), aims, x)
        fast = gradient(descent(net, layer, identity_relu, "mean", "fp32", size), aims, x)
    torch.testing.assert_close(fast[0], exact[0], rtol=1e-4, atol=0)
    assert cosine(fast[1], exact[1]).min() > 0.999
    bf16 = gradient(descent(net, layer, identity_relu, "mean", "bf16", size), aims, x)
    autocast = gradient(partial(descend_by_autocast, net, identity_relu), aims, x)
    assert cosine(bf16[1], exact[1]).min() > cosine(autocast[1], exact[1]).min() - 0.05


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


def descend_by_autocast(net: Network, identity_relu: bool, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        return net.represent(x, identity_relu).float()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pinned_row_of_a_resnet_is_bitwise_the_same_alone_and_among_others(precision: Precision) -> None:
    f = descent(network("resnet50", GPU), "penultimate", True, "mean", precision, 224)
    of = Program("resnet50", f, (3, 224, 224), 2048, GPU, precision, "pgd", 8)
    noise = torch.rand(8, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    asked = [Row(image, image, torch.zeros(2048), True, 1000.0, 0.1, 10) for image in noise]
    alone, among = run(of, asked[:1])[0], run(of, asked)[0]
    assert torch.equal(alone.x, among.x)


def test_a_preempted_row_goes_on_to_the_last_bit() -> None:
    of = program(bucket=4)
    alone = run(of, rows(1, 300))[0]
    batcher = Batcher()
    low = batcher.submit(of, rows(4, 300), priority=0)
    batcher.step()
    high = batcher.submit(of, rows(16), priority=2)
    while batcher.step():
        pass
    assert len(high.completed(0)) == 16
    assert torch.equal(next(o for o in low.completed(0) if o.number == 0).x, alone.x)


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    limit = torch.cuda.get_device_properties(GPU).total_memory

    def hungry(x: torch.Tensor) -> torch.Tensor:
        torch.empty(limit // 6 * len(x), dtype=torch.uint8, device=GPU)  # more than 5 rows are more than there is
        return small().to(GPU).represent(x)

    batcher = Batcher()
    assert len(run(Program("hungry", hungry, (3, 32, 32), 8, GPU), rows(16, 3), batcher)) == 16
    (place,) = batcher.places.values()
    assert place.lane.capacity <= 4


def test_bf16_comes_as_near_as_fp32() -> None:
    network, count = small(), 64
    starts, aims = pixels(3, count, size=32), network.represent(pixels(4, count, size=32))
    asked = [Row(x, x, aim, True, 1000.0, 0.1, STEPS) for x, aim in zip(starts, aims, strict=True)]
    exact, short = (run(program(precision), asked) for precision in ("fp32", "bf16"))
    distances = [
        (network.represent(torch.stack([found[i].x for i in range(count)])) - aims).norm(dim=1)
        for found in (exact, short)
    ]
    assert (distances[1] / distances[0]).log().mean().exp().item() == pytest.approx(1, abs=0.05)


def test_a_glance_is_the_iterate_of_its_step() -> None:
    asked = [replace(row, frames=frozenset(range(STEPS + 1))) for row in rows(4)]
    batcher, glances = Batcher(), list[Glance]()
    ticket = batcher.submit(program(), asked)
    batcher.step()
    batcher.look(ticket, [1, 3], glances.extend)
    while batcher.step():
        pass
    ended = {outcome.number: outcome for outcome in ticket.completed(0)}
    (found,) = glances
    shown = torch.frombuffer(bytearray(found.data()), dtype=torch.uint8).view(2, 32, 32, 3).permute(0, 3, 1, 2)
    for number, step, image in zip(found.numbers, found.steps, shown, strict=True):
        assert 0 < step < STEPS
        assert torch.equal(image, ended[number].frames[step])
