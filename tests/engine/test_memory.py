"""How many rows fit: what a row keeps, counted by hand, and what follows for the size of a batch."""

import pytest
import torch
from torch import Tensor

from tests.engine.batching import represent
from workers.engine.memory import free_bytes, row_bytes, rows_that_fit

FLOAT = 4


def image(size: int) -> Tensor:
    return torch.zeros(1, 3, size, size)


@pytest.mark.parametrize("hidden", [5, 1000])
def test_a_row_keeps_what_its_backward_pass_reads_and_no_weights(hidden: int) -> None:
    """ReLU keeps its output and the last product its weights alone; the result is there besides."""
    first, second = torch.ones(3 * 8 * 8, hidden), torch.ones(hidden, 7)
    assert row_bytes(lambda x: (x.flatten(1) @ first).relu() @ second, image(8)) == FLOAT * (hidden + 7)


def test_what_two_layers_keep_of_one_activation_counts_once() -> None:
    def f(x: Tensor) -> Tensor:
        y = x.flatten(1).exp()  # exp keeps what it puts out, and so does each product of it
        return y * y.sin().detach() + y * y.cos().detach()

    n = 3 * 4 * 4
    assert row_bytes(f, image(4)) == FLOAT * (n + 2 * n + n)


def test_a_row_of_a_network_grows_with_its_pixels() -> None:
    small, large = (row_bytes(represent, image(size)) for size in (8, 32))
    assert 12 * small < large < 20 * small


def test_the_rows_that_fit_are_a_power_of_two_of_at_least_one_and_fewer_for_larger_images() -> None:
    small, large = (rows_that_fit(represent, image(size), 1 << 60) for size in (8, 64))
    for rows in (small, large):
        assert rows >= 1
        assert rows & (rows - 1) == 0
    assert small >= 8 * large


@pytest.mark.parametrize(("most", "rows"), [(256, 256), (255, 128), (3, 2), (1, 1), (0, 1)])
def test_no_more_rows_than_asked_for(most: int, rows: int) -> None:
    assert rows_that_fit(represent, image(8), most) == rows


def test_a_row_that_does_not_fit_is_tried_all_the_same() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    huge = lambda x: x.flatten(1)[:, :1].expand(-1, free)  # noqa: E731 - four times what is free, by its shape
    assert row_bytes(huge, image(2)) > free
    assert rows_that_fit(huge, image(2), 64) == 1


def test_what_is_free_is_what_this_machine_has_at_most() -> None:
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 0 < free < 1 << 50


def test_measuring_leaves_no_gradient_and_no_graph() -> None:
    weight = torch.ones(3 * 4 * 4, 2, requires_grad=True)
    with torch.no_grad():
        row_bytes(lambda x: x.flatten(1) @ weight, image(4))
    assert weight.grad is None
