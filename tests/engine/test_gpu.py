"""On a GPU: the batcher's graphs, precisions and pinned buckets, against the plain loop and against each other."""

from dataclasses import replace

import pytest
import torch

from tests.engine.networks import pixels, small
from workers.engine import objectives
from workers.engine.batcher import Batcher
from workers.engine.descent import Precision, descent
from workers.engine.glances import Glance
from workers.engine.lanes import Program
from workers.engine.pgd import pgd
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
    expected = pgd(of.f, objectives.inversion(aims[:1]), x, x, 1000.0, 0.1, STEPS)
    torch.testing.assert_close(found[0].x, expected[0].cpu(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", ["pgd", "momentum", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_pinned_row_is_bitwise_the_same_alone_and_among_others(precision: Precision, solver: str) -> None:
    of = program(precision, solver, bucket=16)
    alone, among = run(of, rows(1))[0], run(of, rows(16))[0]
    assert torch.equal(alone.x, among.x)
    assert torch.equal(alone.loss, among.loss)


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
    exact, short = (run(program(precision), rows(16)) for precision in ("fp32", "bf16"))
    aims, network = small().represent(TARGETS), small()
    distance = {
        name: (network.represent(torch.stack([found[i].x for i in range(16)])) - aims).norm(dim=1).median().item()
        for name, found in (("exact", exact), ("short", short))
    }
    assert distance["short"] == pytest.approx(distance["exact"], rel=0.1)


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
