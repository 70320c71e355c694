"""Claims and drawings from results made by hand."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers import gallery
from workers.figures import families, feature_families, layout
from workers.figures.claims import claim
from workers.figures.layout import Block, Row
from workers.figures.parts import Part, Result, aligned, independent

RANDOM = np.random.default_rng(0)


def noise(*shape: int) -> NDArray[np.float32]:
    return RANDOM.random(shape).astype(np.float32)


def part(label: str, results: list[Result], missing: int = 0, **parameters: Any) -> Part:
    return Part(label, f"the {label}", {"model": label, "judge": "j"} | parameters, results, missing, 1.0)


def inverse(index: int, image: NDArray[Any], target: NDArray[Any], seen: str = "cat") -> Result:
    """A result that the judge takes for `seen`; its target is a cat where its index is even, else a dog."""
    goal = "cat" if index % 2 == 0 else "dog"
    metrics = {
        "relative_distance": 0.1, "ssim": float(families._ssim(image[None], target[None])[0]), "pixel_l2": 1.0,
        "judge": "j", "judge_agrees": seen == goal, "judge_prediction": seen, "target_class": goal, "steps_taken": 3,
    }  # fmt: skip
    tensors = {"image": image, "target": target, "start": target, "representation": target.ravel()[:8],
               "target_representation": target.ravel()[:8]}  # fmt: skip
    return Result(index, {"label": goal}, {"source": "noise"}, {}, metrics, tensors)


def test_a_claim_holds_only_if_the_paired_difference_excludes_zero_on_its_side() -> None:
    low, high = np.linspace(0, 1, 20), np.linspace(0, 1, 20) + 0.2  # far apart in pairs, not in spread
    assert claim("q", {"model": high, "baseline": low}, "higher").holds is True
    assert claim("q", {"model": low, "baseline": high}, "higher").holds is False
    assert claim("q", {"model": low, "baseline": high}, "lower").holds is True
    assert claim("q", {"model": low, "baseline": low}, "higher").holds is False
    assert claim("q", {"model": high, "baseline": low}).holds is None


def test_a_claim_must_beat_its_null_too_and_needs_enough_units() -> None:
    low, high = np.linspace(0, 1, 20), np.linspace(0, 1, 20) + 0.2
    assert claim("q", {"model": high, "baseline": low}, "higher", {"model": low}).holds is True
    assert claim("q", {"model": high, "baseline": low}, "higher", {"model": high}).holds is False
    assert claim("q", {"model": high[:5], "baseline": low[:5]}, "higher").holds is None


def test_a_claims_sentence_and_record_say_its_numbers() -> None:
    made = claim("SSIM", {"model": np.array([0.5] * 6), "baseline": np.array([0.25] * 6)}, "higher", mean=True)
    assert made.sentence() == "SSIM (mean): model 0.5 [0.5, 0.5], baseline 0.25 [0.25, 0.25]; holds"
    record = made.record()
    assert record["difference"] == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert record["of"]["model"]["value"] == 0.5


def test_perfect_inverses_beat_their_null_and_random_ones_do_not() -> None:
    targets = [noise(3, 32, 32) for _ in range(8)]
    perfect = [inverse(i, t, t, "cat" if i % 2 == 0 else "dog") for i, t in enumerate(targets)]
    random = [inverse(i, noise(3, 32, 32), t) for i, t in enumerate(targets)]
    claims = families.inversion_claims({"model": part("model", perfect), "baseline": part("baseline", random)}, "")
    ssim = next(c for c in claims if c.quantity.startswith("SSIM"))
    assert ssim.of["model"].value == pytest.approx(1)
    assert ssim.null["model"].value < 0.2
    assert ssim.holds
    assert abs(ssim.of["baseline"].value - ssim.null["baseline"].value) < 0.1
    judged = next(c for c in claims if c.quantity.startswith("judge"))
    assert judged.of["model"].value == 1
    assert judged.of["baseline"].value == 0.5


def test_only_items_that_every_network_has_are_compared() -> None:
    def results(*indices: int) -> list[Result]:
        return [inverse(i, noise(3, 32, 32), noise(3, 32, 32)) for i in indices]

    parts = aligned({"model": part("model", results(0, 1, 3), 1), "baseline": part("baseline", results(0, 2, 3), 1)})
    assert [[r.index for r in p.results] for p in parts.values()] == [[0, 3], [0, 3]]
    assert [p.missing for p in parts.values()] == [2, 2]
    with pytest.raises(ValueError, match="the study model has no result"):
        aligned({"model": part("model", results(0), 1), "baseline": part("baseline", results(1), 1)})


def test_the_area_between_two_flat_curves_is_their_gap() -> None:
    def at(label: str, distance: float) -> Part:
        settings = [{"pair": pair, "eps": eps} for pair in range(6) for eps in (0.5, 1.0, 8.0)]
        results = [
            Result(i, {"label": ""}, {"source": "noise"}, s, {"relative_distance": distance}, {})
            for i, s in enumerate(settings)
        ]
        return part(label, results, radii=[0.5, 1.0, 8.0])

    drawn = families.sweep_curves("t", {"model": at("model", 0.75), "baseline": at("baseline", 0.25)})
    area = drawn.claims[0]
    assert area.of["model"].value == pytest.approx(0.75)
    assert area.difference is not None
    assert area.difference.value == pytest.approx(0.5)
    assert area.holds


def test_a_coordinate_that_changes_the_judges_view_alike_from_every_start_is_consistent() -> None:
    def cells(label: str, change: Any) -> Part:
        results = [
            Result(n, {"label": ""}, {}, {"row": n // 6, "column": n % 6}, {"judge": "j"},
                   {"judge_start": np.zeros(8), "judge_image": change(n // 6, n % 6)})
            for n in range(24)
        ]  # fmt: skip
        return part(label, results)

    same = np.eye(8)
    by_coordinate = cells("model", lambda _, column: same[column])
    by_start = cells("baseline", lambda row, _: same[row])
    (made,) = feature_families.consistency({"model": by_coordinate, "baseline": by_start})
    assert made.of["model"].value == 1
    assert made.of["baseline"].value == 0
    assert made.holds


def test_a_network_that_judges_itself_is_left_out_of_what_the_judge_says() -> None:
    images = [noise(3, 32, 32) for _ in range(4)]
    mine = [inverse(i, image, image, "cat") for i, image in enumerate(images)]
    parts = {"model": part("model", mine), "baseline": part("baseline", mine, judge="baseline")}
    judged = next(c for c in families.inversion_claims(parts, "") if c.quantity.startswith("judge"))
    assert judged.of.keys() == {"model"}
    assert judged.holds is None


def test_items_that_share_a_pair_count_once() -> None:
    results = [
        Result(i, {"label": ""}, {"source": "blend"}, {"pair": pair, "lambda": weight}, {}, {})
        for i, (pair, weight) in enumerate((pair, weight) for pair in (0, 1) for weight in (0.2, 0.4, 0.6))
    ]
    assert independent(results, np.array([1, 2, 3, 5, 5, 5])).tolist() == [2, 5]


def test_a_grid_counts_its_longer_side_once() -> None:
    def grid(rows: int, columns: int) -> list[Result]:
        settings = [{"row": row, "column": column} for row in range(rows) for column in range(columns)]
        return [Result(i, {"label": ""}, {"source": "noise"}, s, {}, {}) for i, s in enumerate(settings)]

    assert independent(grid(2, 3), np.array([0, 1, 2, 4, 5, 6])).tolist() == [2, 3, 4]
    assert independent(grid(3, 2), np.array([0, 2, 4, 6, 8, 10])).tolist() == [1, 5, 9]


def test_a_figure_is_the_same_bytes_each_time_and_grows_with_its_rows() -> None:
    row = Row("a", [noise(3, 8, 8), None, noise(3, 8, 8)], ["x", "", "y"])
    one, two = (layout.pictures("t", [Block("b", [row] * n, ["1", "2", "3"])], ["note"]) for n in (1, 2))
    assert layout.rendered(one, "png") == layout.rendered(one, "png")
    assert layout.rendered(one, "pdf") == layout.rendered(one, "pdf")
    assert two.get_size_inches()[1] > one.get_size_inches()[1]


def test_the_pages_of_the_gallery_say_what_its_numbers_say() -> None:
    pages = [gallery.FOLDER / "README.md", gallery.ROOT / "README.md"]
    committed = [page.read_text() for page in pages]
    made = gallery.pages(committed[1])
    assert list(made) == committed
    assert all((gallery.FOLDER / f"{name}.png").exists() for name in gallery.BODIES)
