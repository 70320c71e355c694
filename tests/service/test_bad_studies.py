"""A bad study is refused by field, in words, and leaves nothing behind."""

import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.service.bodies import (
    GRAY,
    NOISE,
    OTHER,
    cifar,
    manipulate,
    maximize,
    mixed,
    path,
    patterns,
    study,
    sweep,
)
from tests.service.test_api import assert_problem, post

TERMS = [[{"coordinate": 1}, {"coordinate": 2}]]
SAMPLE = "cifar10-sample"
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "coordinate out of range": (maximize(coordinates=[0, 192]), ("coordinates.1",), "is 192; allowed: 0 to 191"),
    "coordinate far out": (manipulate(coordinates=[10**30]), ("coordinates.0",), "allowed: 0 to 191"),
    "coordinate negative": (maximize(coordinates=[-1]), ("coordinates.0",), "greater than or equal to 0"),
    "logit out of range": (maximize(layer="logits", coordinates=[10]), ("coordinates.0",), "0 to 9"),
    "term out of range": (maximize(combinations=[TERMS[0], [{"coordinate": 500}]]),
                          ("combinations.1.0.coordinate",), "is 500; allowed: 0 to 191"),
    "more random coordinates than there are": (maximize(random_coordinates=193), ("random_coordinates",), "most 192"),
    "nothing to maximise": (maximize(coordinates=[]), ("body",), "names nothing to maximise"),
    "unknown layer": (maximize(layer="conv9"), ("layer",), "is unknown; allowed for cifar10-robust: penultimate, log"),
    "lambda above 1": (path(lambdas=[0.5, 1.1]), ("lambdas.1",), "less than or equal to 1"),
    "lambda below 0": (path(lambdas=[-0.1]), ("lambdas.0",), "greater than or equal to 0"),
    "lambdas out of order": (path(lambdas=[0.5, 0.2]), ("lambdas",), "must increase"),
    "a coordinate twice in a combination": (maximize(coordinates=[], combinations=[[{"coordinate": 1}] * 2]), ("body",),
                                            "names a coordinate twice"),
    "a weight beyond floats": (maximize(combinations=[[{"coordinate": 1, "weight": 1e39}]]),
                               ("combinations.0.0.weight",), "less than or equal to 1000000"),
    "a combination of nothing": (maximize(combinations=[[{"coordinate": 1, "weight": 0.0}]]), ("body",),
                                 "weights are all 0"),
    "a random start where eps never binds": (study("inversion", random_start=True), ("random_start",),
                                             "allowed: eps < 55.4"),
    "unknown solver": (study("inversion", solver="newton"), ("solver",), "'pgd', 'momentum' or 'adam'"),
    "unknown schedule": (path(schedule="linear"), ("schedule",), "'constant', 'cosine' or 'geometric'"),
    "unknown precision": (maximize(precision="fp16"), ("precision",), "'fp32', 'tf32' or 'bf16'"),
    "unknown priority": (maximize(priority="urgent"), ("priority",), "'low', 'normal' or 'high'"),
    "a distance to stop at of nothing": (study("inversion", stop_distance=0.0), ("stop_distance",), "greater than 0"),
    "a distance to a maximised coordinate": (maximize(stop_distance=0.1), ("stop_distance",), "not permitted"),
    "negative patience": (study("inversion", patience=-1), ("patience",), "greater than or equal to 0"),
    "a solver for what Adam ascends": (maximize(regularization={}, solver="momentum"), ("body",), "leave solver"),
    "no lambda": (path(lambdas=[]), ("lambdas",), "at least 1 item"),
    "no image": (path(first=cifar()), ("first.indices",), "at least 1 item"),
    "no uploaded image": (manipulate(images={"source": "images", "images": []}), ("images.images",),
                          "at least 1 item"),
    "no pattern": (study("inversion", targets=patterns()), ("targets.patterns",), "at least 1 item"),
    "no part": (study("inversion", targets=mixed()), ("targets.parts",), "at least 1 item"),
    "a mixture in a mixture": (study("inversion", targets=mixed(mixed(cifar(0)))), ("targets.parts.0.source",),
                               "does not match any of the expected tags"),
    "unknown pattern": (study("inversion", targets=patterns("plaid")), ("targets.patterns.0",), "'stripes'"),
    "index out of range in a part": (study("inversion", targets=mixed(cifar(0), cifar(1, 400))),
                                     ("targets.parts.1.indices.1",), "is 400; allowed: 0 to 399"),
    "identical ends": (path(first=cifar(4, 5), second=cifar(5, 5)), ("second.1",), "is the same image"),
    "identical patterns": (path(first=patterns("text"), second=patterns("text")), ("second.0",), "needs two ends"),
    "an end out of range is no identical end": (path(first=cifar(400, 1), second=cifar(1, 2)),
                                                ("first.indices.0",), "is 400; allowed: 0 to 399"),
    "pairs that do not match": (path(first=cifar(0, 1), second=cifar(2, 3, 4)), ("body",),
                                "first has 2 images and second 3"),
    "two starts for three pairs": (path(first=cifar(0, 1, 2), second=cifar(3, 4, 5), start=cifar(6, 7)), ("body",),
                                   "start has 2 images; allowed: 1 or 3"),
    "another target of one": (study("inversion", targets=cifar(0), start=OTHER), ("body",), "targets is one image"),
    "another target in a sweep of one": (sweep(targets=cifar(0), start=OTHER), ("body",), "targets is one image"),
    "another target where there is none": (maximize(starts=[NOISE, OTHER]), ("starts.1.source",), "does not match any"),
    "no start": (maximize(starts=[]), ("starts",), "at least 1 item"),
    "eps in a sweep": (sweep(eps=1.0), ("body",), "eps has no place in a radius sweep"),
    "decreasing radii": (sweep(radii=[1.0, 0.5]), ("radii",), "must increase"),
    "a radius twice": (sweep(radii=[1.0, 1.0]), ("radii",), "must increase"),
    "radius 0": (sweep(radii=[0.0]), ("radii.0",), "greater than 0"),
    "restarts from one image": (study("inversion", start=GRAY, restarts=2), ("body",), "restarts over 1 need"),
    "restarts of an image beside noise": (maximize(starts=[NOISE, GRAY], restarts=2), ("body",), "restarts over 1"),
    "restarts of a manipulation": (manipulate(restarts=2), ("body",), "restarts over 1 need random_start"),
    "one frame": (maximize(frames=1), ("body",), "frames is 1; allowed: 0 for none, or 2 to 256"),
    "too many frames": (maximize(frames=257), ("frames",), "less than or equal to 256"),
    "a combination that exceeds all": (manipulate(combinations=TERMS), ("body",), "combinations need threshold"),
    "threshold without until": (manipulate(threshold=1.0), ("body",), "threshold has no place"),
    "until threshold without one": (manipulate(until="threshold"), ("body",), "until threshold needs a threshold"),
    "best with an early stop": (manipulate(best=True), ("body",), "leave it out, or until steps"),
    "regularization with eps": (maximize(regularization={}, eps=1.0), ("body",), "leave eps, step_size"),
    "regularization with a random start": (maximize(regularization={}, random_start=True), ("body",), "leave eps"),
    "regularization with best": (maximize(regularization={}, best=True), ("body",), "keeps the last image"),
    "unknown parametrization": (maximize(regularization={"parametrization": "wavelet"}),
                                ("regularization.parametrization",), "'pixel' or 'fourier'"),
    "more top images than half": (maximize(top_images={"dataset": "natural-sample", "k": 5}), ("top_images.k",),
                                  "is 5; allowed: at most 4"),
    "too many top images": (maximize(top_images={"dataset": SAMPLE, "k": 33}), ("top_images.k",), "equal to 32"),
    "top images of an unknown data set": (maximize(top_images={"dataset": "imagenet"}), ("top_images.dataset",),
                                          "is unknown; allowed: cifar10-sample, natural-sample"),
    "top images of a size that is refused": (maximize(top_images={"dataset": "natural-sample"}, resize="refuse"),
                                             ("top_images.dataset",), "is 128 x 128; cifar10-robust takes 32 x 32"),
    "too many items, targets": (study("inversion", targets=cifar(*[0] * 20_400), restarts=64), ("targets",),
                                "asks for 1,305,600"),
    "too many items, radii included": (sweep(targets=cifar(*[0] * 513)), ("targets",), "asks for 4104"),
    "too many items, lambdas included": (path(first=cifar(*[0] * 410), second=cifar(*[1] * 410)), ("first",), "4100"),
    "too many items, restarts included": (maximize(coordinates=[0] * 65, restarts=64), ("body",), "asks for 4160"),
    "too many items, directions included": (manipulate(images=cifar(*[0] * 64), coordinates=[0] * 65), ("body",),
                                            "asks for 4160 optimisations, restarts included; allowed: 4096"),
    "names that are all unknown": (path(model="x", judge="y", first=mixed(cifar(0), cifar(1) | {"dataset": "z"})),
                                   ("model", "judge", "first.parts.1.dataset"), "is unknown"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_study_is_refused_by_field_and_makes_nothing(api: TestClient, case: str) -> None:
    body, fields, said = BAD[case]
    problem = assert_problem(post(api, body), 422, *fields)
    assert said in problem["detail"]
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_a_request_for_millions_of_items_is_refused_before_one_is_planned(api: TestClient) -> None:
    begun = time.process_time()
    assert_problem(post(api, maximize(starts=[GRAY] * 1000, coordinates=[0] * 65_536)), 422, "body")
    many = mixed(*[cifar(*[0] * 20_000)] * 100)
    assert_problem(post(api, study("inversion", targets=many)), 422, "targets")
    assert time.process_time() - begun < 60  # planned, it would be minutes, and more memory than there is
