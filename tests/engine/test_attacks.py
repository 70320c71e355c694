"""The attacks by name, their losses against numpy and autograd, and where they may search."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engine.networks import pixels, small
from workers.engine.attacks import KINDS, Attack, attack, controls, parse, toward


def searched(a: Attack, seed: int = 0) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The images, what `a` made of them, and every batch that it showed the network."""
    model, x, seen = small(), pixels(2, 12), []
    label, target = model(x).topk(2, dim=1).indices.unbind(dim=1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach())
        logits: Tensor = model(x)
        return logits

    return x, a.search(f, x, label, target, noise), seen


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.4), ("linf", 0.02)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_image_that_is_tried_lies_in_the_ball_and_in_the_box(kind: str, norm: str, eps: float) -> None:
    x, found, seen = searched(Attack(kind, norm, eps, 6))
    order = 2 if norm == "l2" else torch.inf
    for tried in (found, *seen):
        assert (torch.linalg.vector_norm((tried - x).flatten(1).double(), order, dim=1) <= eps * (1 + 1e-4)).all()
        assert tried.min() >= 0
        assert tried.max() <= 1
    assert len(seen) == (1 if kind == "noise" else 7), "a forward for each step, and for the end"
    assert any(torch.equal(found, tried) for tried in seen) or kind != "noise"


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_begins_at_random(kind: str) -> None:
    first, again, other = (searched(Attack(kind, "l2", 0.4, 3), seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_pgd_takes_steps_of_two_and_a_half_radii_in_all_unless_told() -> None:
    default, same, other = (searched(Attack("pgd", "l2", 0.4, 5, step_size=s))[1] for s in (None, 0.2, 0.3))
    assert torch.equal(default, same)
    assert not torch.equal(default, other)


def ratio(z: np.ndarray, y: int, t: int) -> float:
    ordered = np.sort(z)[::-1]
    return float((z[y] - z[t]) / (ordered[0] - (ordered[2] + ordered[3]) / 2))


@pytest.mark.parametrize("classes", [4, 7])
def test_the_targeted_loss_is_the_papers_ratio_and_v_its_gradient(classes: int) -> None:
    z = np.random.RandomState(0).standard_normal((9, classes))
    label, target = np.arange(9) % classes, (np.arange(9) + 1) % classes
    objective = toward(torch.from_numpy(label), torch.from_numpy(target))
    loss, v = objective(torch.from_numpy(z))
    expected = [ratio(z[i], label[i], target[i]) for i in range(9)]
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12)
    for i in range(9):
        for k in range(classes):
            up, down = (z[i] + h * np.eye(classes)[k] for h in (1e-6, -1e-6))
            slope = (ratio(up, label[i], target[i]) - ratio(down, label[i], target[i])) / 2e-6
            assert v[i, k].item() == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_the_targeted_loss_is_the_same_for_larger_logits() -> None:
    z, label, target = (
        torch.randn(5, 6, generator=torch.Generator().manual_seed(0)),
        torch.arange(5),
        torch.arange(5) + 1,
    )
    loss, larger = (toward(label, target)(scale * z)[0] for scale in (1, 1e4))
    torch.testing.assert_close(loss, larger)


@pytest.mark.parametrize("classes", [2, 3])
def test_with_few_classes_the_targeted_loss_is_the_difference_of_two_logits(classes: int) -> None:
    z = torch.tensor([[3.0, 1.0, -2.0]])[:, :classes]
    loss, v = toward(torch.tensor([0]), torch.tensor([1]))(z)
    assert loss.item() == 2
    assert v.tolist() == [[1, -1, 0][:classes]]


def test_tied_logits_give_no_nan() -> None:
    loss, v = toward(torch.tensor([0]), torch.tensor([1]))(torch.zeros(1, 5))
    assert loss.isfinite().all()
    assert v.isfinite().all()


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (9, 8), (10, 9), (1000, 9)])
def test_a_targeted_attack_aims_at_nine_classes_or_at_all_others(classes: int, targets: int) -> None:
    assert Attack("apgd-t", "l2", 1, 100).runs(classes) == list(range(targets))
    assert Attack("apgd-t", "l2", 1, 100, restarts=2).runs(classes) == [*range(targets), *range(targets)]


def test_an_attack_runs_once_for_each_restart_and_noise_once_for_each_draw() -> None:
    assert [len(Attack(kind, "l2", 1, 20, restarts=3).runs(10)) for kind in ("pgd", "apgd-ce", "noise")] == [3, 3, 60]


@pytest.mark.parametrize("name", ["pgd-20", "pgd-100x5", "apgd-ce-100", "apgd-t-50", "noise-10"])
def test_a_name_says_kind_steps_and_restarts(name: str) -> None:
    assert parse(name, "l2", 0.5).name == name


def test_auto_pgd_takes_a_hundred_steps_unless_told() -> None:
    assert parse("apgd-t", "linf", 0.1, restarts=2) == Attack("apgd-t", "linf", 0.1, 100, restarts=2)


@pytest.mark.parametrize("name", ["pgd", "fgsm-1", "pgd-", "pgd-x2", "apgd-100", ""])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no attack; expected one like pgd-20"):
        parse(name, "l2", 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "fgsm", "kind is 'fgsm'.*pgd, apgd-ce, apgd-t, noise"),
        ("norm", "l1", "norm 'l1'.*l2, linf"),
        ("eps", 0.0, "eps > 0"),
        ("eps", float("nan"), "eps > 0"),
        ("steps", 0, "steps >= 1"),
        ("restarts", 0, "restarts >= 1"),
        ("step_size", -1.0, "step_size is -1.0"),
    ],
)
def test_an_attack_that_cannot_be_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Attack("pgd", "l2", 1, 20), **{field: value})


def test_auto_pgd_takes_no_step_size() -> None:
    with pytest.raises(ValueError, match="for pgd alone"):
        Attack("apgd-ce", "l2", 1, 100, step_size=0.1)


def test_the_controls_are_noise_of_the_radius_and_a_radius_without_bound() -> None:
    noise, unbounded = controls("l2", 0.5)
    assert (noise.kind, noise.norm, noise.eps) == ("noise", "l2", 0.5)
    assert (unbounded.kind, unbounded.norm, unbounded.eps) == ("pgd", "linf", 1)


def test_the_plain_attack_starts_from_the_image_without_noise() -> None:
    model, x = small(), pixels(0, 4)
    label = model(x).argmax(dim=1)
    assert torch.equal(attack(model, x, label, 0.5, 0, 0.1), x)
