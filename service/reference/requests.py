"""Examples of requests, by operation and name: what each is for, and its body. A service as shipped takes them."""

from collections.abc import Mapping
from typing import Any

Example = tuple[str, Any]
ROBUST, STANDARD, SAMPLE = "cifar10-robust", "cifar10-standard", "cifar10-sample"
COMPARED = {"model": ROBUST, "baseline": STANDARD, "preset": "cifar"}


def _images(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": SAMPLE, "indices": list(indices)}


def _study(kind: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "model": ROBUST, "preset": "cifar", **fields}


JOBS: Mapping[str, Example] = {
    "inversion": (
        "Four images inverted from noise, under labels of your own",
        _study("inversion", targets=_images(0, 1, 2, 3), labels={"experiment": "first"}, description="a first try"),
    ),
    "inversion_bulk": (
        "Twenty images of two classes, drawn and planned later; what an earlier job finished is taken over",
        _study(
            "inversion", steps=100, reuse=True, on_invalid="skip", priority="low",
            targets={"source": "dataset", "dataset": SAMPLE, "classes": ["cat", "dog"], "random": 20, "seed": 1},
        ),
    ),
    "radius_sweep": (
        "Two images within each of three radii, each from the other",
        _study("radius_sweep", targets=_images(0, 1), start={"source": "other_target"}, radii=[0.5, 2.0, 8.0]),
    ),
    "interpolation": (
        "Between two images, in five steps",
        _study("interpolation", first=_images(0), second=_images(1), lambdas=[0.0, 0.25, 0.5, 0.75, 1.0]),
    ),
    "feature_visualization": (
        "Two coordinates maximised from noise, beside the images that activate them most",
        _study("feature_visualization", coordinates=[3, 5], top_images={"dataset": SAMPLE, "k": 3}),
    ),
    "feature_manipulation": (
        "A coordinate raised in two images until it exceeds every other",
        _study("feature_manipulation", images=_images(0, 1), coordinates=[3], until="exceeds_all"),
    ),
    "training": (
        "A small robust network",
        {"kind": "training", "architecture": "cifar-resnet-small", "dataset": SAMPLE, "preset": "cifar-small",
         "epochs": 2, "name": "mine"},
    ),
    "evaluation": (
        "Accuracy, clean and under an attack of 20 steps",
        {"kind": "evaluation", "model": ROBUST, "dataset": SAMPLE, "preset": "cifar", "attacks": [{"steps": 20}],
         "images": 100},
    ),
    "activating_images": (
        "The images of a data set that activate two coordinates most and least",
        {"kind": "activating_images", "model": ROBUST, "dataset": SAMPLE, "coordinates": [3, 5]},
    ),
}  # fmt: skip
_TWO = {"images": _images(0, 1)}
_PAIR = {"first": _images(0, 1), "second": _images(2, 3)}
_FIGURES: dict[str, dict[str, Any]] = {
    "figure-2": _TWO,
    "figure-3": _TWO,
    "figure-4": _TWO | {"radii": [0.5, 2.0]},
    "figure-5": _TWO | {"radii": [0.5, 2.0]},
    "figure-6": _TWO | {"out_of_distribution": {"source": "patterns", "patterns": ["stripes", "text"]}},
    "figure-7": _TWO | {"coordinates": [3]},
    "figure-8": {"dataset": SAMPLE, "coordinates": [3], "k": 3},
    "figure-10": {"coordinates": [3]},
    "figure-11": _TWO | {"coordinates": [3]},
    "figure-12": _PAIR,
    "figure-13": _TWO,
    "figure-14": _TWO | {"out_of_distribution": {"source": "patterns", "patterns": ["circles"]}},
    "figure-15": _TWO,
    "figure-16": _TWO,
    "figure-17": _PAIR,
    "figure-18": _PAIR,
    "figure-19": {"random_coordinates": 2},
    "figure-20": {"coordinates": [3]},
    "figure-21": {"coordinates": [3], "other": "cifar10-judge"},
    "figure-22": {"coordinates": [3]},
    "figure-23": _TWO | {"random_coordinates": 2},
}
_TABLE = {"model": ROBUST, "baseline": STANDARD, "preset": "cifar", "dataset": SAMPLE, "images": 40,
          "attacks": [{"steps": 20}, {"kind": "apgd-ce", "steps": 20}]}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {name: COMPARED | body for name, body in _FIGURES.items()}
RECIPES |= {"table-4": _TABLE, "table-5": _TABLE}
REQUESTS: dict[str, Mapping[str, Example]] = {
    "submit_job": JOBS,
    "patch_job": {
        "changes": (
            "Another priority, a label more, one less",
            {"priority": "high", "labels": {"experiment": "second", "draft": None}, "description": None},
        ),
    },
    "create_webhook": {
        "ends": (
            "Told of the end of jobs with a label",
            {"url": "https://example.org/hooks/robustreps", "labels": {"experiment": "first"},
             "events": ["job.succeeded", "job.partially_succeeded", "job.failed"]},
        ),
    },
    "change_webhook": {
        "widen": ("Told of everything", {"events": ["job.*"], "labels": {}}),
        "disable": ("Told of nothing for now", {"disabled": True}),
    },
    "clone_job": {"changes": ("The same with another seed", {"seed": 1}), "same": ("The same again", {})},
    "begin_upload": {
        "image": (
            "An image of 4 bytes, with their digest",
            {"kind": "image", "size": 4, "media_type": "image/png",
             "sha256": "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589"},
        ),
    },
    "sign_in": {"key": ("By a key", {"key": "rr_0123456789ab_and-what-is-secret-of-it"})},
    "register_model": {
        "torchvision": (
            "Published weights",
            {"name": "resnet18", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}},
        ),
    },
    "register_dataset": {
        "bucket": (
            "Images in the service's own bucket",
            {"name": "photos", "format": "images", "root": "bucket", "path": "imports/photos"},
        ),
    },
}  # fmt: skip
REQUESTS |= {
    f"submit_{name.replace('-', '_')}": {name: ("On the shipped networks", body)} for name, body in RECIPES.items()
}
