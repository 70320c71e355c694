"""Auto-PGD against the paper's algorithm in numpy float64, one example at a time, and its schedule by hand."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.apgd import apgd, checkpoints
from workers.engine.attacks import attack
from workers.engine.constraints import CONSTRAINTS, L2
from workers.engine.objectives import misclassification

Array = npt.NDArray[np.float64]
N, SHAPE, STEPS = 6, (3, 4, 4), 60


def landscape(x: Array, a: Array) -> tuple[float, Array]:
    """A bumpy loss of one example and its gradient: sum of sin(9 (x - a)) + 3 (x - a)^2, over pixels."""
    return float((np.sin(9 * (x - a)) + 3 * (x - a) ** 2).sum()), 9 * np.cos(9 * (x - a)) + 6 * (x - a)


def project(x: Array, x0: Array, eps: float, norm: str) -> Array:
    d = x - x0
    d = np.clip(d, -eps, eps) if norm == "linf" else d * min(1, eps / max(float(np.linalg.norm(d)), 1e-300))
    return np.clip(x0 + d, 0, 1)


def by_the_paper(x: Array, x0: Array, a: Array, eps: float, norm: str, steps: int) -> tuple[Array, int]:
    """Algorithm 1 for one example, minimising; checked at x_w, before its step. Returns the best x and the halvings."""
    w = [0, *(math.ceil(steps * p) for p in (0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99))]
    losses, etas, bests, xs, halvings = [], [], [], [x], 0
    eta, best, best_loss = 2 * eps, x, math.inf
    for k in range(steps):
        loss, g = landscape(xs[k], a)
        if loss < best_loss:
            best, best_loss = xs[k], loss
        losses.append(loss)
        etas.append(eta)
        bests.append(best_loss)
        if k in w[1:]:
            last = w[w.index(k) - 1]
            falls = sum(losses[i + 1] < losses[i] for i in range(last, k))
            if falls < 0.75 * (k - last) or (etas[last] == etas[k] and bests[last] == bests[k]):
                eta, halvings = eta / 2, halvings + 1
                xs[k], losses[k] = best, best_loss
                g = landscape(best, a)[1]
        direction = np.sign(g) if norm == "linf" else g / np.linalg.norm(g)
        z = project(xs[k] - eta * direction, x0, eps, norm)
        ahead = z if k == 0 else xs[k] + 0.75 * (z - xs[k]) + 0.25 * (xs[k] - xs[k - 1])
        xs.append(project(ahead, x0, eps, norm))
    return (xs[-1] if landscape(xs[-1], a)[0] < best_loss else best), halvings


def bumps(a_NK: Array) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def objective(r_NK: Tensor) -> tuple[Tensor, Tensor]:
        each = [landscape(row, a) for row, a in zip(r_NK.numpy(), a_NK, strict=True)]
        return torch.tensor([loss for loss, _ in each]).double(), torch.from_numpy(np.stack([g for _, g in each]))

    return objective


@pytest.mark.parametrize(("norm", "eps"), [("l2", 1.5), ("linf", 0.3)])
def test_it_walks_as_the_papers_algorithm_does(norm: str, eps: float) -> None:
    random = np.random.RandomState(1)
    x0, a = random.random_sample((N, *SHAPE)), random.random_sample((N, *SHAPE))
    start = np.stack([project(x, c, eps, norm) for x, c in zip(random.random_sample(x0.shape), x0, strict=True)])
    expected, halvings = zip(*(by_the_paper(start[i], x0[i], a[i], eps, norm, STEPS) for i in range(N)), strict=True)
    assert len(set(halvings)) > 1, "the case needs examples with schedules of their own"
    found = apgd(
        lambda x: x.flatten(1), bumps(a.reshape(N, -1)), torch.from_numpy(start), torch.from_numpy(x0), eps, STEPS,
        constraint=CONSTRAINTS[norm],
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=0, atol=1e-9)


def test_a_hundred_steps_have_the_papers_checkpoints() -> None:
    assert checkpoints(100) == {0, 22, 41, 57, 70, 80, 87, 93, 99}
    assert checkpoints(10) == {0, 3, 5, 6, 7, 8, 9, 10}


def test_an_example_ends_where_it_ends_alone() -> None:
    model, x = small(dtype=torch.float64), pixels(0, 5, dtype=torch.float64)
    label = model(x).argmax(dim=1)
    together = apgd(model, misclassification(label), x, x, 0.5, 12)
    for i in range(5):
        one = slice(i, i + 1)
        alone = apgd(model, misclassification(label[one]), x[one], x[one], 0.5, 12)
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-9)


def test_with_the_same_steps_it_gets_lower_than_pgd() -> None:
    model, x = small(), pixels(0, 40)
    label = model(x).argmax(dim=1)
    objective = misclassification(label)
    auto = apgd(model, objective, x, x, 0.5, 30)
    plain = attack(model, x, label, 0.5, 30, 2.5 * 0.5 / 30)
    assert objective(model(auto))[0].mean() < objective(model(plain))[0].mean()
    assert ((auto - x).flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-5)).all()


def test_the_log_odds_lead_where_the_cross_entropy_does() -> None:
    """The one grows with the other: in float64 both losses take the same walk."""
    model, x = small(dtype=torch.float64), pixels(1, 6, dtype=torch.float64)
    label = model(x).argmax(dim=1)

    def cross_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
        one_hot = torch.nn.functional.one_hot(label, 5)
        return logits.log_softmax(dim=1).gather(1, label[:, None])[:, 0], one_hot - logits.softmax(dim=1)

    found, expected = (apgd(model, loss, x, x, 0.5, 15) for loss in (misclassification(label), cross_entropy))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_its_observer_sees_every_step_and_may_stop_it() -> None:
    model, x = small(), pixels(0, 2)
    label, seen = model(x).argmax(dim=1), []

    def observe(k: int, _: Tensor, loss: Tensor, grad_norm: Tensor) -> bool:
        seen.append((k, loss.shape, grad_norm.shape))
        return k == 3

    apgd(model, misclassification(label), x, x, 0.5, 10, observe, L2)
    assert seen == [(k, (2,), (2,)) for k in range(4)]
