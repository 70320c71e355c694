"""The benchmark's own arithmetic: what it compares with is what it says, and what it counts is counted right."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engine.networks import pixels, small
from workers.engine import bench, bench_items, objectives
from workers.engine.batcher import Batcher
from workers.engine.bench_loops import EPS, STEP_SIZE, Engine, Library, Loop, clock, library_step
from workers.engine.lanes import Program
from workers.engine.network import Network
from workers.engine.pgd import pgd
from workers.engine.rows import Row

CPU = torch.device("cpu")
TINY = ["--device", "cpu", "--architectures", "cifar-resnet-slim", "--batches", "2", "--steps", "1", "--rounds", "1"]


def test_the_librarys_step_is_the_papers_and_counts_two_forward_passes() -> None:
    """Of ||A x - t||, whose gradient is known, within a ball that binds."""
    random = np.random.RandomState(0)
    a, t, x0 = random.randn(5, 12), random.randn(2, 5), random.rand(2, 3, 2, 2)
    A, forwards = torch.from_numpy(a), []

    def network(x: Tensor) -> Tensor:
        forwards.append(len(x))
        return x.flatten(1) @ A.T

    def loss(x: Tensor) -> Tensor:
        distance: Tensor = (network(x) - torch.from_numpy(t)).norm(dim=1)
        return distance

    x, want = torch.from_numpy(x0), x0.reshape(2, 12)
    for _ in range(4):
        x = library_step(network, loss, x, torch.from_numpy(x0), eps=0.4, step_size=0.3)
        g = (want @ a.T - t) @ a
        moved = want - 0.3 * g / np.linalg.norm(g, axis=1, keepdims=True) - x0.reshape(2, 12)
        want = np.clip(x0.reshape(2, 12) + moved * np.minimum(1, 0.4 / np.linalg.norm(moved, axis=1))[:, None], 0, 1)
    assert np.allclose(x.reshape(2, 12), want, atol=1e-6)
    assert forwards == [2] * 8


def test_both_loops_make_the_steps_that_they_are_asked_for() -> None:
    net, x = small(), pixels(0, 3)
    with torch.no_grad():
        target = net.represent(pixels(1, 3))
    loops: dict[str, Loop] = {"library": Library(net, x, target), "engine": Engine(ours(net), x, target, "fp32")}
    for steps in (1, 2, 4):
        for loop in loops.values():
            loop.advance(steps)
    want = pgd(ours(net), objectives.inversion(target), x, x, EPS, STEP_SIZE, 7)
    for name, loop in loops.items():
        assert (loop.x - want).abs().max() < 1e-4, name
    assert bench.farthest(loops)["engine"] < 1e-4


def ours(net: Network) -> Callable[[Tensor], Tensor]:
    return lambda x: net.represent(x, True)


def test_flops_are_two_for_each_multiplication_of_the_forward_pass_and_of_the_images_gradient() -> None:
    weight = torch.rand(8, 3, 3, 3)

    def f(x: Tensor) -> Tensor:
        return F.conv2d(x, weight, padding=1).flatten(1)

    forward = 2 * 8 * 3 * 3 * 3 * 6 * 6
    assert bench.flops(f, torch.rand(4, 3, 6, 6), torch.rand(4, 8 * 6 * 6)) == 2 * forward


def test_a_search_that_ends_by_itself_is_no_measurement() -> None:
    net, x = small(), pixels(0, 1)
    with pytest.raises(RuntimeError, match="number"):
        Engine(ours(net), x, torch.full((1, 8), torch.nan), "fp32").advance(1)


def test_a_loop_that_cannot_begin_says_why() -> None:
    def out_of_memory() -> Loop:
        raise MemoryError("it is full\nand more")

    assert bench.begun(out_of_memory, CPU) == (None, {"error": "MemoryError: it is full"})


def test_a_report_has_what_its_table_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(
        [*TINY, "--precisions", "fp32", "--matrix", "64", "--items", "3", "--out", str(tmp_path / "of" / "b.json")]
    )
    report = json.loads((tmp_path / "of" / "b.json").read_text())
    (cell,) = report["cells"]
    rates = cell["image_steps_per_second"]
    assert cell["over_library"]["engine"] == pytest.approx(rates["engine"] / rates["library"])
    floor = cell["flops"] / cell["matrix_flops_per_second"]
    assert cell["of_floor"]["engine"] == pytest.approx(floor * rates["engine"])
    assert cell["kept_mb_per_row"]["library"] > cell["kept_mb_per_row"]["engine"] > 0
    assert cell["farthest_pixel"]["2 steps"]["engine"] < 1e-4
    assert (cell["errors"], cell["peak_mb"], cell["cuda_graphs"]) == ({}, {}, {"engine": False})
    assert set(report["microseconds_per_item"]) == {"nothing", "cifar-resnet-small"}
    shown = capsys.readouterr().out
    assert report["machine"] in shown
    assert f"{rates['engine']:.1f}" in shown


def test_a_cell_that_would_take_too_long_is_skipped_and_says_so() -> None:
    few = ["--precisions", "fp32", "--matrix", "64", "--seconds", "0.001", "--batches", "1", "256"]
    done, skipped = bench.cells(CPU, bench.arguments([*TINY, *few]))
    assert done["image_steps_per_second"]["engine"] > 0
    assert skipped["errors"]["cell"].startswith("skipped: would take")
    assert bench.line(skipped) == ["cifar-resnet-slim", "256", "fp32", skipped["errors"]["cell"]]


def test_every_item_that_is_counted_was_searched() -> None:
    program = Program("items", lambda x: x.flatten(1)[:, :4], (3, 2, 2), 4, CPU)
    image, batcher = torch.rand(3, 2, 2), Batcher(most=64)
    before = clock(CPU)
    cost = bench_items.per_item(batcher, program, Row(image, image, torch.zeros(4), True, 1.0, 0.1, steps=1), 700)
    assert 0 < 700 * cost <= clock(CPU) - before
    assert batcher.stats.image_steps == 2 * 700  # a step, and the look at what came of it
