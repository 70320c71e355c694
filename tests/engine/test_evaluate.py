"""Clean and adversarial accuracy, against argmax and the closed form of a linear classifier."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.networks import small
from workers.engine.attacks import attack
from workers.engine.datasets import Images, to_float
from workers.engine.evaluate import correct
from workers.engine.pgd import Function

Array = npt.NDArray[np.float64]


def noise(n: int, size: int = 12) -> Tensor:
    return torch.from_numpy(np.random.RandomState(3).randint(0, 256, (n, 3, size, size)).astype(np.uint8))


def as_classified(f: Function, pixels: Tensor) -> Images:
    """Labelled by the classifier itself: its clean accuracy is 1."""
    return Images(pixels, f(to_float(pixels)).argmax(dim=1))


def linear(classes: int, scale: float) -> tuple[Function, Images, Array]:
    """A linear classifier, near-grey images, and the radius at which each is first misclassified.

    That radius is the least margin_j / ||w_y - w_j|| over the other classes, negative where the label is wrong already.
    The images stay far enough from black and white for the box not to matter.
    """
    random = np.random.RandomState(0)
    w = random.standard_normal((classes, 3 * 8 * 8))
    pixels = np.round(127.5 + 10 * random.standard_normal((300, 3, 8, 8))).astype(np.uint8)
    x = pixels.reshape(300, -1) / 255 - 0.5
    labels = (x @ w.T).argmax(axis=1)
    labels[:20] = random.randint(0, classes, 20)
    radius = np.array(
        [
            min(x[i] @ (w[y] - w[j]) / np.linalg.norm(w[y] - w[j]) for j in range(classes) if j != y)
            for i, y in enumerate(labels)
        ]
    )
    weight = torch.from_numpy(scale * w).float()
    return (
        lambda x: (x.flatten(1) - 0.5) @ weight.T,
        Images(torch.from_numpy(pixels), torch.from_numpy(labels)),
        radius,
    )


def assert_pgd_agrees(classes: int, scale: float) -> None:
    """PGD can undercut no certified radius, and must find every attack with 5% to spare."""
    f, images, radius = linear(classes, scale)
    eps = float(np.median(radius))
    survived = correct(f, images, eps, steps=50).numpy()
    assert survived[radius > eps * 1.0001].all()
    assert not survived[radius < 0.95 * eps].any()


def test_without_an_attack_correct_is_plain_argmax() -> None:
    model, pixels = small(), noise(23)
    labels = torch.from_numpy(np.random.RandomState(0).randint(3, 5, 23))
    expected = [int(model(to_float(pixels[i : i + 1])).argmax()) == int(labels[i]) for i in range(23)]
    assert 0 < sum(expected) < 23, "the case needs hits and misses"
    assert correct(model, Images(pixels, labels), 0, 0, batch=10).tolist() == expected


@pytest.mark.parametrize(("classes", "scale"), [(2, 1.0), (2, 10.0), (5, 30.0)])
def test_on_a_linear_classifier_pgd_finds_its_closed_form_robust_accuracy(classes: int, scale: float) -> None:
    assert_pgd_agrees(classes, scale)


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_a_classifier_gains_no_robustness_from_larger_logits(scale: float) -> None:
    assert_pgd_agrees(2, scale)


def test_an_already_wrong_image_stays_wrong_under_attack() -> None:
    model, pixels = small(), noise(20)
    images = as_classified(model, pixels)
    wrong = Images(pixels, (images.labels + 1) % 5)
    assert not correct(model, wrong, 0.3, 5).any()


def test_a_larger_radius_and_more_steps_are_never_much_weaker() -> None:
    model = small()
    images = as_classified(model, noise(60))

    def accuracy(eps: float, steps: int) -> float:
        return correct(model, images, eps, steps).double().mean().item()

    by_steps = [accuracy(0.6, steps) for steps in (1, 5, 20)]
    by_radius = [accuracy(eps, 10) for eps in (0, 0.2, 0.4, 0.8)]
    for weaker, stronger in (*pairwise(by_steps), *pairwise(by_radius)):
        assert stronger <= weaker + 0.02
    assert by_radius[0] == 1
    assert by_radius[-1] < 0.5


@pytest.mark.parametrize("best", [False, True])
def test_an_attack_stays_within_eps_and_in_the_box_and_lowers_the_labels_probability(best: bool) -> None:
    model = small()
    images = as_classified(model, noise(16))
    x = to_float(images.pixels)
    start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    adversarial = attack(model, x, images.labels, 0.5, 10, 0.125, start, best)
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert ((adversarial - x).double().flatten(1).norm(dim=1) <= 0.5 * (1 + 1e-5)).all()
    chosen = images.labels[:, None]
    before, after = (model(t).log_softmax(dim=1).gather(1, chosen) for t in (x, adversarial))
    assert (after < before).all()


def test_the_same_seed_gives_the_same_answers() -> None:
    model = small()
    images = as_classified(model, noise(40))
    first, again = (correct(model, images, 0.5, 3, seed=7, batch=16) for _ in range(2))
    assert torch.equal(first, again)


def test_progress_is_written_under_the_attacks_name(capsys: pytest.CaptureFixture[str]) -> None:
    model = small()
    images = as_classified(model, noise(4))
    correct(model, images, 0, 0)
    correct(model, images, 0.1, 2)
    correct(model, images, 0.1, 2, title="by another name")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["clean", "pgd-2", "by another name"]


def test_a_clean_evaluation_may_have_a_title_too(capsys: pytest.CaptureFixture[str]) -> None:
    correct(small(), as_classified(small(), noise(4)), 0, 0, title="before training")
    assert capsys.readouterr().err.startswith("before training:")
