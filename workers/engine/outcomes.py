"""What an evaluation found: each image's answers, the tables drawn from them, and signs that gradients are hidden.

Numpy alone. N: images, A: attacks. A data set may be evaluated in chunks, anywhere and in any order: their summary is
that of the whole, number for number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from workers.engine.attacks import Attack
from workers.engine.statistics import wilson

Array = npt.NDArray[Any]


class Outcome(NamedTuple):
    """Arrays alone, so that `np.savez(file, **outcome._asdict())` keeps it and `Outcome(**np.load(file))` is it again.

    image [N]: its index in its data set. label, clean [N]: its class, and the one predicted for it as it is.
    prediction [N, A]: the class at which it fell to an attack; its label if it did not. margin [N, A]: the least logit
    of the label minus the greatest other, of all that the attack tried. vanished [N, A]: the share of the attack's
    steps at which the image had no gradient.
    """

    image: Array
    label: Array
    clean: Array
    prediction: Array
    margin: Array
    vanished: Array

    def stood(self) -> Array:
        """Whether the prediction is the label: without an attack, then under each, bool [N, 1 + A]."""
        stood: Array = np.column_stack([self.clean, self.prediction]) == self.label[:, None]
        return stood


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """The chunks of a data set as one, in order of index. Raises ValueError for no images, or the same one twice."""
    whole = Outcome(*map(np.concatenate, zip(*outcomes, strict=True))) if outcomes else None
    if whole is None or len(np.unique(whole.image)) < len(whole.image):
        raise ValueError("expected chunks with images, and no image twice")
    order = np.argsort(whole.image)
    return Outcome(*(values[order] for values in whole))


def summarise(outcomes: Sequence[Outcome], attacks: Sequence[Attack], classes: Sequence[str] = ()) -> dict[str, Any]:
    """Accuracies with 95% intervals, over all images and for each class, confusions and suspicions; all of it JSON.

    `classes` names the labels, where they have names. `worst` has an entry for each norm and radius: there an image
    stands if it stood against every attack, noise too. A confusion is [label, prediction, images].
    Raises ValueError as `together` does, or if the outcomes are not of so many attacks.
    """
    o = together(outcomes)
    if o.prediction.shape[1] != len(attacks):
        raise ValueError(f"the outcomes are of {o.prediction.shape[1]} attacks, got {len(attacks)}")
    right, present = o.clean == o.label, np.unique(o.label).tolist()
    whole = _table(o.stood(), attacks)
    for a, row in enumerate(whole["attacks"]):
        row |= asdict(attacks[a]) | {"median_margin": float(np.median(o.margin[:, a]))}
        row |= {"without_gradient": int((o.vanished[right, a] > 0.5).sum())}
    return whole | {
        "classes": [
            {"class": c, "label": classes[c] if classes else str(c), **_table(o.stood()[o.label == c], attacks)}
            for c in present
        ],
        "confusion": {
            "clean": _confusion(o.label, o.clean),
            "attacks": [_confusion(o.label, prediction) for prediction in o.prediction.T],
        },
        "suspicions": suspicions(o, attacks),
    }


def suspicions(o: Outcome, attacks: Sequence[Attack]) -> list[str]:
    """Signs that the network hides its gradients rather than being robust (Athalye et al. 2018, section 3.1).

    A sentence each, with its numbers. Of two attacks, one counts as weaker only beyond three standard deviations of a
    paired comparison. No sign is no proof; `attacks.controls` has what most signs need.
    """
    right, fell = o.clean == o.label, ~o.stood()[:, 1:]
    found = []
    for (i, weak), (j, strong) in permutations(enumerate(attacks), 2):
        won, lost = int((fell[:, i] & ~fell[:, j]).sum()), int((fell[:, j] & ~fell[:, i]).sum())
        least = 0.1 * right.sum() if weak.kind == "apgd-t" else 0
        for why in _expectations(weak, strong):
            if won - lost > max(least, 3 * (won + lost) ** 0.5):
                a, b = _described(weak), _described(strong)
                found.append(f"{a} fells {won} images that {b} leaves, and the other way round {lost}: {why}")
    for c, attack in enumerate(attacks):
        without, stand = int((o.vanished[right, c] > 0.5).sum()), int((~fell[:, c]).sum())
        if without > 0.05 * right.sum():
            found.append(f"{without} of {right.sum()} images have no gradient at most steps of {_described(attack)}")
        unbounded = attack.kind != "noise" and attack.norm == "linf" and attack.eps >= 1
        if unbounded and len(np.unique(o.clean)) > 1 and stand > 0.05 * right.sum():
            found.append(f"{stand} images stand against {_described(attack)}, where each can turn into every other")
    return found


def _expectations(weak: Attack, strong: Attack) -> Iterator[str]:
    """Why `strong` should not be the weaker of the two, if there is a reason."""
    same = weak.kind == strong.kind != "noise" and weak.norm == strong.norm and weak.restarts <= strong.restarts
    if same and weak.eps == strong.eps and weak.steps < strong.steps:
        yield "more steps should not be weaker"
    if same and weak.eps < strong.eps and weak.steps == strong.steps:
        yield "a larger radius should not be weaker"
    if weak.norm == strong.norm and weak.eps <= strong.eps and weak.kind == "noise" != strong.kind:
        yield "a gradient should be of more use than noise"
    if replace(weak, kind="apgd-ce") == strong and weak.kind == "apgd-t":
        yield "aiming at a class should not be of so much use"


def _described(attack: Attack) -> str:
    return f"{attack.name} ({attack.norm} {attack.eps:g})"


def _table(stood: Array, attacks: Sequence[Attack]) -> dict[str, Any]:
    """Of the images of `stood` [n, 1 + A]: their number, and the shares that stand."""
    balls = {(attack.norm, attack.eps): [0] for attack in attacks}
    for a, attack in enumerate(attacks):
        balls[attack.norm, attack.eps].append(1 + a)
    return {
        "images": len(stood),
        "clean": _share(stood[:, 0]),
        "attacks": [{"name": attack.name, **_share(stood[:, 1 + a])} for a, attack in enumerate(attacks)],
        "worst": [
            {"norm": norm, "eps": eps, **_share(np.all(stood[:, columns], axis=1))}
            for (norm, eps), columns in balls.items()
        ],
    }


def _share(stood: Array) -> dict[str, float]:
    value, low, high = wilson(int(stood.sum()), len(stood))
    return {"accuracy": value, "low": low, "high": high}


def _confusion(label: Array, prediction: Array) -> list[list[int]]:
    pairs, counts = np.unique(np.stack([label, prediction], axis=1), axis=0, return_counts=True)
    return [[int(y), int(p), int(n)] for (y, p), n in zip(pairs, counts, strict=True)]
