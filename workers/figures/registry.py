"""How each of the paper's figures is drawn."""

from collections.abc import Mapping

from workers.figures import families, feature_families
from workers.figures.families import Family

BOTH = ("model", "baseline")
FIGURES: Mapping[str, Family] = {
    "figure-2": families.inversions(("baseline",)),
    "figure-3": families.inversions(BOTH),
    "figure-4": families.sweep_curves,
    "figure-5": families.sweep_images,
    "figure-6": families.inversions(("model",), source=False, most=16),
    "figure-7": feature_families.visualizations(BOTH),
    "figure-8": feature_families.maximizers,
    "figure-10": feature_families.regularized,
    "figure-11": feature_families.manipulations,
    "figure-12": families.interpolations(("model",)),
    "figure-13": families.inversions(("model",)),
    "figure-14": families.inversions(("model",), source=False, most=16),
    "figure-15": families.inversions(("baseline",), source=False),
    "figure-16": families.inversions(BOTH),
    "figure-17": families.interpolations(("model",)),
    "figure-18": families.interpolations(("baseline",)),
    "figure-19": feature_families.visualizations(("model",)),
    "figure-20": feature_families.visualizations(("model",)),
    "figure-21": feature_families.visualizations((*BOTH, "other")),
    "figure-22": feature_families.visualizations((*BOTH, "other")),
    "figure-23": feature_families.manipulations,
}
