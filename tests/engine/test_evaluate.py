"""Clean and adversarial accuracy, against argmax and the closed form of a linear classifier; and planted defences."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from tests.engine.networks import small
from workers.engine import models
from workers.engine.attacks import KINDS, Attack, attack
from workers.engine.datasets import Images, to_float
from workers.engine.evaluate import correct, evaluate, main
from workers.engine.outcomes import Outcome
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


def judged(model: Function, images: Images, *attacks: Attack, batch: int = 250) -> Outcome:
    return evaluate(model, images.pixels, images.labels, attacks, batch=batch)


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


ALL = [Attack(kind, "l2", 0.4, 4, restarts=2) for kind in KINDS]


def test_an_image_has_the_same_outcome_in_any_batch_order_and_shard() -> None:
    model = small()
    images = as_classified(model, noise(40))
    whole = judged(model, images, *ALL)
    assert 0 < whole.stood()[:, 1:].mean() < 1, "the case needs images that fall and images that stand"
    shuffled = np.random.RandomState(0).permutation(40)
    parts = [
        evaluate(model, images.pixels[rows], images.labels[rows], ALL, rows.tolist(), batch=7)
        for rows in np.array_split(shuffled, 3)
    ]
    for one, other in zip(whole, map(np.concatenate, zip(*parts, strict=True)), strict=True):
        np.testing.assert_allclose(one[shuffled], other, rtol=0, atol=1e-4)


def test_another_seed_and_another_index_draw_other_noise() -> None:
    model = small()
    images = as_classified(model, noise(30))
    drawn = [
        evaluate(model, images.pixels, images.labels, [Attack("noise", "l2", 2, 1)], indices, seed).margin
        for indices, seed in ((range(30), 0), (range(30), 1), (range(30, 60), 0))
    ]
    assert all((a != b).any() for a, b in pairwise(drawn))


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_restart_counts_for_each_image_alone(kind: str) -> None:
    """Without a gradient all depends on the start; more restarts begin with the same ones."""
    f, images, radius = linear(5, 1.0)
    eps = 10 * float(np.median(radius))
    one, few, many = judged(
        lambda x: f(x.detach()) + 0 * x.sum(), images, *(Attack(kind, "l2", eps, 2, restarts=n) for n in (1, 2, 6))
    ).stood()[:, 1:].T  # fmt: skip
    assert not (many & ~few).any()
    assert not (few & ~one).any()
    assert many.sum() < few.sum() < one.sum()


def test_the_fallen_are_not_asked_about_again() -> None:
    """Counted by the network itself, which is asked in batches of 32, 64, 96 ... as long as so many stand."""
    model, asked = small(), []
    images = as_classified(model, noise(120))
    wrong = Images(images.pixels, torch.cat([images.labels[:90], (images.labels[90:] + 1) % 5]))

    def f(x: Tensor) -> Tensor:
        asked.append(len(x))
        logits: Tensor = model(x)
        return logits

    outcome = evaluate(f, wrong.pixels, wrong.labels, [Attack("pgd", "l2", 0.8, 10)])
    clean, first, *later = asked
    assert (clean, first) == (120, 96)
    assert all(more >= fewer for more, fewer in pairwise(later))
    assert set(later) <= {32, 64, 96}
    assert outcome.stood()[:, 1].sum() <= later[-1] < 96


def test_an_outcome_says_the_class_at_which_an_image_fell_and_the_least_margin() -> None:
    model = small()
    images = as_classified(model, noise(60))
    outcome = judged(model, images, *ALL)
    stood = outcome.stood()[:, 1:]
    np.testing.assert_array_equal(stood, outcome.margin > 0)
    assert set(outcome.prediction[~stood]) <= set(range(5))
    logits = model(to_float(images.pixels)).sort(dim=1).values
    assert (outcome.margin <= (logits[:, -1] - logits[:, -2]).numpy()[:, None] + 1e-6).all(), "the image itself counts"


def test_its_observer_hears_of_every_forward_and_may_stop_it() -> None:
    model, heard = small(), []
    images = as_classified(model, noise(10))

    def observe(name: str, n: int) -> None:
        heard.append((name, n))
        if len(heard) == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        evaluate(model, images.pixels, images.labels, [Attack("pgd", "l2", 0.1, 10)], batch=6, observe=observe)
    assert [name for name, _ in heard] == ["clean", "clean", "pgd-10", "pgd-10"]
    assert [n for _, n in heard[:3]] == [6, 4, 6]


def test_floats_and_bytes_of_the_same_images_give_the_same_outcome() -> None:
    model = small()
    images = as_classified(model, noise(10))
    as_floats = evaluate(model, images.pixels.float() / 255, images.labels, ALL[:1])
    for one, other in zip(judged(model, images, ALL[0]), as_floats, strict=True):
        np.testing.assert_array_equal(one, other)


def test_bad_input_is_refused() -> None:
    model, images = small(), as_classified(small(), noise(4))
    with pytest.raises(ValueError, match="a label and an index for each image, got 0, 0, 0"):
        evaluate(model, images.pixels[:0], images.labels[:0], [])
    with pytest.raises(ValueError, match="got 4, 3, 4"):
        evaluate(model, images.pixels, images.labels, [], range(3))
    with pytest.raises(ValueError, match="labels 0 to 5; allowed: the classes 0 to 4"):
        evaluate(model, images.pixels, torch.tensor([0, 1, 2, 5]), [])
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(lambda x: model(x) / 0, images.pixels, images.labels, [])


def test_the_command_prints_a_summary_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    state = models.build("cifar-resnet-slim").state_dict()
    torch.save({"config": {"architecture": "cifar-resnet-slim"}, "model": state, "epoch": 3}, tmp_path / "saved.pt")
    images = noise(6, 32)
    model = models.load("cifar-resnet-slim", state)
    np.savez(
        tmp_path / "cifar10_test.npz", images=images.permute(0, 2, 3, 1).numpy(),
        labels=as_classified(model, images).labels.numpy(),
    )  # fmt: skip
    command = ["--checkpoint", str(tmp_path / "saved.pt"), "--data", str(tmp_path), "--limit", "5", "--device", "cpu"]
    main([*command, "--attacks", "clean,pgd-2,apgd-t-2", "--epsilon", "0.05", "--norm", "linf", "--batch", "1"])
    summary = json.loads(capsys.readouterr().out)
    assert (summary["epoch"], summary["images"], summary["clean"]["accuracy"]) == (3, 5, 1)
    assert [row["name"] for row in summary["attacks"]] == ["pgd-2", "apgd-t-2", "noise-10", "pgd-20"]
    assert [(ball["norm"], ball["eps"]) for ball in summary["worst"]] == [("linf", 0.05), ("linf", 1)]
    main([*command, "--attacks", "clean"])
    assert json.loads(capsys.readouterr().out)["attacks"] == []
