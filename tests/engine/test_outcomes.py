"""Tables of outcomes counted by hand, the same however the data were cut; planted defences, found out or broken."""

import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engine.test_evaluate import linear
from workers.engine.attacks import Attack, controls
from workers.engine.datasets import to_float
from workers.engine.evaluate import evaluate
from workers.engine.outcomes import Outcome, summarise, suspicions, together
from workers.engine.pgd import Function
from workers.engine.statistics import wilson

F_LINEAR, IMAGES, RADIUS = linear(5, 1.0)
EPS = float(np.median(RADIUS))
ATTACKS = [Attack("pgd", "l2", EPS, 5), Attack("pgd", "l2", EPS, 20), Attack("apgd-ce", "l2", EPS, 10)]


def made(n: int, *fell: Sequence[int], vanished: float = 0) -> Outcome:
    """`n` images of classes 0 and 1 in turn, all right as they are; each of `fell` lists those an attack felled."""
    label = np.arange(n) % 2
    prediction = np.stack([np.where(np.isin(np.arange(n), f), 1 - label, label) for f in fell], axis=1)
    zeros = np.zeros(prediction.shape, np.float32)
    return Outcome(np.arange(n), label, label.copy(), prediction, zeros, zeros + np.float32(vanished))


def outcome(f: Function, attacks: Sequence[Attack] = ATTACKS) -> tuple[Outcome, list[str]]:
    """Images labelled by `f` itself under the attacks and their controls, and what there is to suspect."""
    all_of_them = [*attacks, *controls("l2", EPS)]
    labels = f(to_float(IMAGES.pixels)).argmax(dim=1)
    found = evaluate(f, IMAGES.pixels, labels, all_of_them)
    return found, suspicions(found, all_of_them)


def test_a_summary_of_chunks_in_any_order_is_that_of_the_whole() -> None:
    whole = evaluate(F_LINEAR, IMAGES.pixels, IMAGES.labels, ATTACKS)
    parts = np.array_split(np.random.RandomState(0).permutation(300), 4)
    chunks = [Outcome(*(values[rows] for values in whole)) for rows in parts]
    assert summarise(chunks, ATTACKS) == summarise([whole], ATTACKS)


def test_an_outcome_is_itself_again_out_of_a_file() -> None:
    file, whole = io.BytesIO(), made(6, [1], [2])
    np.savez(file, **whole._asdict())
    file.seek(0)
    for one, other in zip(Outcome(**np.load(file)), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_accuracies_and_intervals_are_counted_by_hand() -> None:
    found = made(10, [0, 1, 2], [2, 3])
    found.clean[9] = 0
    found.prediction[9] = 0
    summary = json.loads(json.dumps(summarise([found], ATTACKS[:2], ("cat", "dog"))))
    rows = [summary["clean"], *summary["attacks"], *summary["worst"]]
    assert [row["accuracy"] for row in rows] == [0.9, 0.6, 0.7, 0.5]
    for row, hits in zip(rows, (9, 6, 7, 5), strict=True):
        assert (row["accuracy"], row["low"], row["high"]) == wilson(hits, 10)
    cat, dog = summary["classes"]
    assert (cat["label"], cat["images"], cat["clean"]["accuracy"]) == ("cat", 5, 1)
    assert (dog["label"], dog["images"], dog["clean"]["accuracy"]) == ("dog", 5, 0.8)
    assert [row["accuracy"] for row in dog["attacks"]] == [0.6, 0.6]
    assert dog["worst"][0]["accuracy"] == 0.4
    assert summary["confusion"]["clean"] == [[0, 0, 5], [1, 0, 1], [1, 1, 4]]
    assert summary["confusion"]["attacks"][0] == [[0, 0, 3], [0, 1, 2], [1, 0, 2], [1, 1, 3]]
    assert summary["attacks"][0]["name"] == "pgd-5"
    assert (summary["attacks"][0]["norm"], summary["attacks"][0]["eps"]) == ("l2", EPS)


def test_the_worst_is_over_attacks_of_one_norm_and_radius() -> None:
    attacks = [Attack("pgd", "l2", 1, 20), Attack("pgd", "l2", 2, 20), Attack("apgd-ce", "l2", 1, 100)]
    worst = summarise([made(10, [0], range(8), [0, 1])], attacks)["worst"]
    assert [(ball["norm"], ball["eps"], ball["accuracy"]) for ball in worst] == [("l2", 1, 0.8), ("l2", 2, 0.2)]


def test_without_attacks_there_is_clean_accuracy_alone() -> None:
    summary = summarise([evaluate(F_LINEAR, IMAGES.pixels, IMAGES.labels, [])], [])
    assert (summary["attacks"], summary["worst"], summary["suspicions"]) == ([], [], [])
    assert summary["clean"]["accuracy"] == (RADIUS > 0).mean()


def test_chunks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected chunks with images"):
        together([])
    with pytest.raises(ValueError, match="no image twice"):
        together([made(3, [0]), made(4, [0])])
    with pytest.raises(ValueError, match="of 1 attacks, got 3"):
        summarise([made(3, [0])], ATTACKS)


PGD_5, PGD_20, WIDE = Attack("pgd", "l2", 1, 5), Attack("pgd", "l2", 1, 20), Attack("pgd", "l2", 2, 20)
NOISE, CE, TARGETED = Attack("noise", "l2", 1, 10), Attack("apgd-ce", "l2", 1, 100), Attack("apgd-t", "l2", 1, 100)


@pytest.mark.parametrize(
    ("weak", "strong", "won", "lost", "why"),
    [
        (PGD_5, PGD_20, 20, 2, "more steps"),
        (PGD_20, WIDE, 20, 2, "a larger radius"),
        (NOISE, PGD_20, 20, 2, "of more use than noise"),
        (TARGETED, CE, 30, 2, "aiming at a class"),
    ],
)
def test_a_weaker_attack_that_fells_more_is_suspicious_beyond_chance(
    weak: Attack, strong: Attack, won: int, lost: int, why: str
) -> None:
    clear, chance = (made(200, range(n), range(100, 100 + m)) for n, m in ((won, lost), (9, 3)))
    (sentence,) = suspicions(clear, [weak, strong])
    assert why in sentence
    assert f"fells {won} images" in sentence
    assert f"the other way round {lost}" in sentence
    assert suspicions(clear, [strong, weak]) == []
    assert suspicions(chance, [weak, strong]) == []


def test_images_without_a_gradient_are_suspicious() -> None:
    assert suspicions(made(50, [0], vanished=0.6), [PGD_20]) == [
        "50 of 50 images have no gradient at most steps of pgd-20 (l2 1)"
    ]
    assert suspicions(made(50, [0], vanished=0.4), [PGD_20]) == []


def test_images_that_stand_where_all_is_allowed_are_suspicious() -> None:
    unbounded = controls("l2", 1)[1]
    (sentence,) = suspicions(made(50, range(40)), [unbounded])
    assert sentence.startswith("10 images stand against pgd-20 (linf 1)")
    assert suspicions(made(50, range(49)), [unbounded]) == []


def test_an_honest_network_is_not_suspected() -> None:
    assert outcome(F_LINEAR)[1] == []


def test_a_staircase_before_the_network_is_found_out() -> None:
    """It has no gradient anywhere, so that attacks leave almost everything."""
    staircase, sentences = outcome(lambda x: F_LINEAR((x * 8).round() / 8))
    assert staircase.stood()[:, 1:4].mean() > 0.9
    text = " ".join(sentences)
    assert "noise-10" in text
    assert "no gradient" in text
    assert "stand against pgd-20 (linf 1)" in text


def test_steep_steps_before_the_network_are_found_out() -> None:
    """A soft staircase has a gradient in theory; in float32 it is zero but at the edges."""

    def steps(x: Tensor) -> Tensor:
        return F_LINEAR((torch.sigmoid(2000 * (8 * x % 1 - 0.5)) + (8 * x).floor()) / 8)

    assert any("no gradient" in sentence for sentence in outcome(steps)[1])


def test_a_shattered_gradient_is_found_out() -> None:
    shattered = outcome(lambda x: F_LINEAR(x + 0.05 * torch.sin(2000 * x)))[1]
    assert any("stand against pgd-20 (linf 1)" in sentence for sentence in shattered)


def test_a_saturated_softmax_blinds_the_cross_entropy_but_not_our_attacks() -> None:

    def f(x: Tensor) -> Tensor:
        return 1e5 * F_LINEAR(x)

    x = to_float(IMAGES.pixels).requires_grad_(True)
    label = f(x).argmax(dim=1)
    (g,) = torch.autograd.grad(F.cross_entropy(f(x), label, reduction="sum"), x)
    assert (g.flatten(1).norm(dim=1) == 0).float().mean() > 0.5, "the case needs a blind cross-entropy"
    saturated, honest = outcome(f)[0].stood()[:, 1:4].mean(axis=0), outcome(F_LINEAR)[0].stood()[:, 1:4].mean(axis=0)
    assert (saturated <= honest + 0.01).all()
