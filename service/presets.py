"""The presets of the studies, by kind.

`paper` is Engstrom et al. 2019, appendix A.6; `notebook` is the code released with it; `cifar` is ours for 32 x 32
pixels, where radius and step of the others are too coarse; `fast` is that by momentum, in fewer steps or farther ones.
"""

from typing import Any

Presets = dict[str, dict[str, Any]]
_PLAIN = {"solver": "pgd", "schedule": "constant"}
_WHOLE_BOX = {**_PLAIN, "eps": 1000.0, "best": False, "identity_relu": True}
# Our small networks end in a ReLU and a mean over few positions. There an inversion by the true gradient comes twice as
# near, and the judge agrees no less; but a coordinate to be maximised may be dead, and then has no true gradient.
_SMALL = {"step_size": 0.1, "identity_relu": False}
_FAST = {"solver": "momentum", "schedule": "geometric", "step_size": 1.0}

INVERSION: Presets = {
    "paper": {**_WHOLE_BOX, "step_size": 1.0, "steps": 10_000, "loss": "distance"},
    # The loss divided by ||t||, which leaves the direction of every step unchanged.
    "notebook": {**_WHOLE_BOX, "step_size": 1.0, "steps": 10_000, "loss": "relative_distance"},
    "cifar": {**_WHOLE_BOX, **_SMALL, "steps": 300, "loss": "distance"},
    "fast": {**_WHOLE_BOX, **_SMALL, **_FAST, "steps": 300, "loss": "distance"},
}

RADIUS_SWEEP: Presets = {
    "paper": {**_PLAIN, "best": True, "identity_relu": True, "step_size": 1.0, "steps": 10_000, "loss": "distance",
              "radii": [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]},
    "notebook": {**_PLAIN, "best": True, "identity_relu": True, "step_size": 1.0, "steps": 10_000,
                 "loss": "relative_distance", "radii": [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]},
    "cifar": {**_PLAIN, **_SMALL, "best": True, "steps": 200, "loss": "distance",
              "radii": [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]},
    "fast": {**_SMALL, **_FAST, "best": True, "steps": 200, "loss": "distance",
             "radii": [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]},
}  # fmt: skip

INTERPOLATION: Presets = {
    "paper": {**_WHOLE_BOX, "step_size": 1.0, "steps": 10_000, "lambdas": [i / 10 for i in range(11)]},
    "notebook": {**_WHOLE_BOX, "best": True, "step_size": 1.0, "steps": 10_000,
                 "lambdas": [i / 9 for i in range(10)]},
    "cifar": {**_WHOLE_BOX, **_SMALL, "best": True, "steps": 300, "lambdas": [i / 9 for i in range(10)]},
    "fast": {**_WHOLE_BOX, **_SMALL, **_FAST, "best": True, "steps": 300, "lambdas": [i / 9 for i in range(10)]},
}  # fmt: skip

FEATURE_VISUALIZATION: Presets = {
    "paper": {**_WHOLE_BOX, "step_size": 1.0, "steps": 200},
    "notebook": {**_WHOLE_BOX, "step_size": 1.0, "steps": 200},
    "cifar": {**_WHOLE_BOX, "step_size": 0.1, "steps": 200},
    "fast": {**_WHOLE_BOX, "solver": "momentum", "schedule": "cosine", "step_size": 0.5, "steps": 100},
}

FEATURE_MANIPULATION: Presets = {
    "paper": {**_WHOLE_BOX, "step_size": 1.0, "steps": 200, "until": "exceeds_all", "threshold": None},
    "notebook": {**_WHOLE_BOX, "step_size": 0.1, "steps": 800, "until": "threshold", "threshold": 1.0},
    "cifar": {**_WHOLE_BOX, "step_size": 0.1, "steps": 400, "until": "exceeds_all", "threshold": None},
    "fast": {**_WHOLE_BOX, "solver": "momentum", "step_size": 0.2, "steps": 200, "until": "exceeds_all",
             "threshold": None},
}  # fmt: skip
