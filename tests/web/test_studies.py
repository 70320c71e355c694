"""What the studies come to, on the pages of jobs, recipes, networks and data sets, in a real browser."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from service.settings import Settings
from tests.fixtures import LiveService, live
from tests.web.test_dashboard import HOSTILE, SOON, changed

pytestmark = pytest.mark.e2e

SHORT: dict[str, Any] = {"model": "cifar10-robust", "preset": "cifar", "steps": 4}
RADII, LAMBDAS = [0.5, 1.0, 4.0], [0.0, 0.25, 0.5, 1.0]
DRAWN = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 0)"
PHONE, WIDE = {"width": 360, "height": 844}, {"width": 1280, "height": 900}


def images(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


JOBS: dict[str, dict[str, Any]] = {
    "path": SHORT | {"kind": "interpolation", "first": images(0, 1), "second": images(3, 6), "lambdas": LAMBDAS},
    "coordinates": SHORT
    | {"kind": "feature_visualization", "coordinates": [3, 12], "starts": [{"source": "noise"}, images(5)],
       "top_images": {"dataset": "cifar10-sample", "k": 2}},
    "manipulation": SHORT | {"kind": "feature_manipulation", "coordinates": [3, 12], "images": images(0)},
    "evaluation": {
        "kind": "evaluation", "model": "cifar10-robust", "dataset": "cifar10-sample", "preset": "cifar", "images": 24,
        "attacks": [{"steps": 2}],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Studies:
    """A service, and the ids of jobs that are over, by the names of `JOBS`; those of a figure, and of its sweep."""

    service: LiveService
    ids: dict[str, str]

    def open(self, page: Page, name: str) -> None:
        page.goto(f"{self.service.url}/ui/jobs/{self.ids[name]}")

    def items(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.service.client.json("GET", f"/v1/jobs/{self.ids[name]}/items")["items"]
        return found


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studies]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("studies") / "data", port=0)
    with live(settings) as service:
        ids = {name: service.submit(body)["id"] for name, body in JOBS.items()}
        figure = service.client.recipe("figure-4", **SHORT, images=images(0, 1, 2), radii=RADII)
        ids |= {"figure": figure["id"], "sweep": figure["parts"]["model"]}
        for job in ids.values():
            assert service.wait(job)["state"] == "succeeded"
        yield Studies(service, ids)


def panel(page: Page, name: str) -> Locator:
    found = page.get_by_role("region", name=name, exact=True)
    expect(found).to_be_visible(timeout=SOON)
    return found


def shows(shot: Locator, item: dict[str, Any], file: str) -> None:
    """The picture of that file, loaded."""
    url = next(each["url"] for each in item["artifacts"] if each["name"] == file)
    expect(shot.locator("img")).to_have_attribute("src", url)
    shot.scroll_into_view_if_needed()
    expect(shot.locator("img")).to_have_js_property("naturalWidth", 32)


def test_a_sweep_shows_the_images_of_the_radius_pointed_at(studies: Studies, page: Page) -> None:
    studies.open(page, "sweep")
    sweep = panel(page, "Radius sweep")
    chart = sweep.get_by_role("slider", name="Relative distance")
    expect(chart).to_have_attribute("aria-valuemax", "2", timeout=SOON)
    found = {(each["settings"]["pair"], each["settings"]["eps"]): each for each in studies.items("sweep")}
    distances = {key: item["metrics"]["relative_distance"] for key, item in found.items()}
    chart.press("Home")
    middle = median(distances[pair, RADII[0]] for pair in range(3))
    expect(chart).to_have_attribute("aria-valuetext", f"radius 0.5: {middle:.3g}")
    pair = next(pair for pair in range(3) if distances[pair, RADII[0]] == middle)
    shows(sweep.locator(".stage .picture").last, found[pair, RADII[0]], "result.png")
    sweep.get_by_label("Pair of images").select_option("2")
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] - 40, box["y"] + 60)
    expect(chart).to_have_attribute("aria-valuetext", f"radius 4: {distances[2, 4.0]:.3g}")
    for place, file in enumerate(("target.png", "start.png", "result.png")):
        shows(sweep.locator(".stage .picture").nth(place), found[2, 4.0], file)


def test_a_chart_is_drawn_in_both_themes_and_has_its_values_as_a_table(studies: Studies, page: Page) -> None:
    studies.open(page, "sweep")
    sweep = panel(page, "Radius sweep")
    canvas = sweep.locator("canvas")
    expect(canvas).to_be_visible(timeout=SOON)
    light = canvas.evaluate("canvas => canvas.toDataURL()")
    assert canvas.evaluate(DRAWN)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("([canvas, was]) => canvas.toDataURL() !== was", arg=[canvas.element_handle(), light])
    dark = canvas.evaluate("canvas => canvas.toDataURL()")
    page.emulate_media(color_scheme="light")
    for _ in range(2):  # from the system's to the light one, and to the dark one
        page.locator("#theme").click()
    page.wait_for_function("was => document.querySelector('.sweep canvas').toDataURL() === was", arg=dark)
    sweep.get_by_label("Log").uncheck()
    page.wait_for_function("was => document.querySelector('.sweep canvas').toDataURL() !== was", arg=dark)
    sweep.get_by_text("Values").click()
    rows = sweep.get_by_role("table", name="Relative distance, values").locator("tbody tr")
    items = studies.items("sweep")
    for row, radius in zip(rows.all(), RADII, strict=True):
        found = [each["metrics"]["relative_distance"] for each in items if each["settings"]["eps"] == radius]
        expect(row).to_have_text(f"{radius:g}{median(found):.3g}")


def test_one_lambda_moves_along_every_path_and_its_pixel_blend(studies: Studies, page: Page) -> None:
    studies.open(page, "path")
    paths = panel(page, "Interpolation")
    pairs = paths.locator(".pair")
    expect(pairs.locator("h3")).to_have_text(["#0 cat to airplane", "#1 frog to automobile"], timeout=SOON)
    weight = paths.get_by_role("slider", name="Lambda")
    found = {(each["settings"]["pair"], each["settings"]["lambda"]): each for each in studies.items("path")}

    def expect_at(at: float) -> None:
        expect(weight).to_have_attribute("aria-valuetext", f"{at:g}")
        for pair in (0, 1):
            for place, file in enumerate(("target.png", "result.png")):
                shows(pairs.nth(pair).locator(".stage .picture").nth(place), found[pair, at], file)

    expect_at(0.5)
    weight.press("ArrowLeft")
    expect_at(0.25)
    pairs.nth(1).get_by_role("button", name="cifar10-robust, lambda 1").click()
    expect_at(1.0)
    expect(pairs.nth(1).locator(".strip [data-chosen]")).to_have_count(2)


def test_a_strip_stays_where_it_was_scrolled_to_while_items_come(studies: Studies, page: Page) -> None:
    turns = itertools.count()

    def goes_on(body: dict[str, Any]) -> None:
        body["state"] = "running"
        body["items"]["succeeded"] = next(turns)  # something is new at each poll

    def computed(body: dict[str, Any]) -> None:
        for item in body["items"]:
            item["state"] = "running"

    job = f"/v1/jobs/{studies.ids['path']}"
    page.route(f"**{job}", changed(goes_on))
    page.route(f"**{job}/items?*", changed(computed))
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    studies.open(page, "path")
    strip = panel(page, "Interpolation").locator(".strip").first
    expect(strip.locator("[data-chosen]").first).to_be_visible(timeout=SOON)
    strip.evaluate("strip => { strip.style.width = '120px'; strip.scrollLeft = 3 }")
    for _ in range(2):
        with page.expect_response(re.compile(f"{job}/items")):
            pass
    expect(strip).to_have_js_property("scrollLeft", 3)
    panel(page, "Interpolation").get_by_role("slider", name="Lambda").press("End")
    expect(strip).not_to_have_js_property("scrollLeft", 3)


def test_a_coordinate_stands_beside_what_activates_it_most_and_least(studies: Studies, page: Page) -> None:
    studies.open(page, "coordinates")
    cards = panel(page, "Coordinates").locator(".coordinate")
    expect(cards.locator("h3")).to_have_text(["coordinate 3", "coordinate 12"], timeout=SOON)
    first, column = studies.items("coordinates")[0], studies.items("coordinates")[::2]
    rows = cards.first.locator(".filmstrip")
    expect(rows.locator("h4")).to_have_text(["maximised", "most active", "least active"])
    for picture, item in zip(rows.nth(0).locator(".picture").all(), column, strict=True):
        shows(picture, item, "result.png")
    for row, end in ((rows.nth(1), "top"), (rows.nth(2), "bottom")):
        said = [f"{value:.3g}" for value in first["metrics"][f"{end}_activations"]]
        assert [float(text) for text in row.locator(".caption").all_text_contents()] == pytest.approx(
            [float(text) for text in said]
        )
        for place, picture in enumerate(row.locator(".picture").all(), start=1):
            shows(picture, first, f"{end}-{place}.png")


def test_a_gallery_says_how_to_have_what_activates_coordinates_beside(studies: Studies, page: Page) -> None:
    page.route(
        f"**/v1/jobs/{studies.ids['coordinates']}", changed(lambda body: body["parameters"].update(top_images=None))
    )
    page.goto(f"{studies.service.url}/ui/jobs/{studies.ids['coordinates']}")
    panel(page, "Coordinates").get_by_role("link", name="Ask again with them").click()
    expect(page.get_by_label("Top images")).to_be_checked(timeout=SOON)


def test_a_slider_uncovers_what_manipulation_made_of_an_image(studies: Studies, page: Page) -> None:
    studies.open(page, "manipulation")
    compared = panel(page, "Before and after")
    cards = compared.locator(".manipulation")
    expect(cards.locator("h3")).to_have_text(["coordinate 3, from airplane", "coordinate 12, from airplane"])
    for card, item in zip(cards.all(), studies.items("manipulation"), strict=True):
        before, after = (item["artifacts"][i]["url"] for i in place_of(item, "start.png", "result.png"))
        expect(card.locator("img").nth(0)).to_have_attribute("src", before)
        expect(card.locator("img").nth(1)).to_have_attribute("src", after)
        expect(card.locator("img.after")).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    compared.get_by_label("Before and after, coordinate 12").press("End")
    expect(cards.nth(1).locator("img.after")).to_have_css("clip-path", re.compile(r"inset\(0px( 0%)?.*\)"))
    expect(cards.nth(0).locator("img.after")).to_have_css("clip-path", "inset(0px 50% 0px 0px)")
    compared.get_by_label("All of them").press("Home")
    for card in cards.all():
        expect(card.locator("img.after")).to_have_css("clip-path", "inset(0px 100% 0px 0px)")


def place_of(item: dict[str, Any], *names: str) -> list[int]:
    return [[each["name"] for each in item["artifacts"]].index(name) for name in names]


def test_a_figure_can_be_looked_into_with_both_networks_side_by_side(studies: Studies, page: Page) -> None:
    studies.open(page, "figure")
    sweep = panel(page, "Radius sweep")
    expect(sweep.locator(".key")).to_have_text([re.compile(rf"^cifar10-{n} ") for n in ("robust", "standard")])
    expect(sweep.locator(".stage img")).to_have_count(4)
    parts = studies.service.client.job(studies.ids["figure"])["parts"]
    link = page.get_by_role("link", name="Compare item by item")
    expect(link).to_have_attribute("href", f"/ui/compare?a={parts['model']}&b={parts['baseline']}")


def test_an_evaluation_leads_from_its_confusions_to_their_images(studies: Studies, page: Page) -> None:
    studies.open(page, "evaluation")
    chart = page.get_by_role("slider", name="Accuracy by L2 radius, cifar10-sample")
    expect(chart).to_have_attribute(
        "aria-valuetext", re.compile(r"^radius 0.5: pgd-2 [\d.]+ %, worst case"), timeout=SOON
    )
    for attack in ("no attack", "pgd-2"):
        page.get_by_role("combobox", name="Attack").select_option(attack)
        cells = page.get_by_role("table", name=f"Confusions, {attack}").get_by_role("button")
        numbers = [int(text) for text in cells.all_text_contents()]
        assert sum(numbers) == 24
        wrong = cells.and_(page.locator(":not([data-right])")).first
        wrong.click()
        expect(page.locator(".confused img")).to_have_count(int(wrong.inner_text()), timeout=SOON)
        expect(page.locator(".confused img").first).to_have_js_property("naturalWidth", 32)
    page.get_by_role("tab", name="Log").click()
    with page.expect_response(f"**/v1/jobs/{studies.ids['evaluation']}"):
        page.get_by_role("tab", name="Results").click()
    page.wait_for_timeout(500)  # long enough to draw it again
    expect(page.get_by_role("combobox", name="Attack")).to_have_value("pgd-2")
    expect(page.locator(".confused img").first).to_be_visible()


def test_a_network_shows_what_was_measured_of_it_and_its_jobs(studies: Studies, page: Page) -> None:
    page.goto(f"{studies.service.url}/ui/models/cifar10-robust")
    expect(page.locator(".headline dd").first).to_have_text("74.0 %", timeout=SOON)
    expect(page.get_by_role("slider", name="Accuracy by L2 radius")).to_have_attribute("aria-valuemax", "1")
    jobs = page.get_by_role("table", name="Latest jobs").locator(".c-job .id")
    expect(jobs).to_have_text([studies.ids[name] for name in reversed(JOBS)])
    expect(page.get_by_role("link", name="New job with it")).to_have_attribute("href", "/ui/new?model=cifar10-robust")


def test_the_images_of_a_data_set_are_turned_over_by_pages(studies: Studies, page: Page) -> None:
    page.goto(f"{studies.service.url}/ui/datasets/cifar10-sample")
    shown = page.get_by_role("region", name="Images")
    expect(shown.get_by_role("button", name="Previous")).to_be_disabled(timeout=SOON)
    shown.get_by_role("button", name="Next").click()
    expect(shown).to_contain_text("48 to 95 of 400")
    expect(page).to_have_url(re.compile(r"\?from=48$"))
    shown.get_by_label("Go to image").fill("390")
    shown.get_by_role("button", name="Go").click()
    expect(shown.locator(".caption")).to_have_text([f"#{i}" for i in range(390, 400)])
    expect(shown.get_by_role("button", name="Next")).to_be_disabled()
    page.go_back()
    expect(shown).to_contain_text("48 to 95 of 400")
    shown.get_by_role("button", name="Previous").click()
    expect(shown).to_contain_text("0 to 47 of 400")


@pytest.mark.parametrize("name", ["sweep", "path", "coordinates", "manipulation", "evaluation"])
def test_no_study_scrolls_sideways_and_hostile_labels_stay_text(studies: Studies, page: Page, name: str) -> None:
    def poison(body: Any) -> None:
        for item in body.get("items", []):
            for end in (
                item["target"],
                item["start"],
                item["target"].get("first", {}),
                item["target"].get("second", {}),
            ):
                end["label"] = HOSTILE
        for each in body.get("classes", []):
            each["label"] = HOSTILE

    page.route(re.compile(r"/items\?|/summary\.json"), changed(poison))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    studies.open(page, name)
    expect(page.locator(".study-panel, .wide").first).to_contain_text(HOSTILE, timeout=SOON)
    expect(page.locator("img[src=x]")).to_have_count(0)
    for size in (PHONE, WIDE):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        for shown in page.locator(".study-panel, .charts").all():
            assert shown.evaluate("panel => panel.scrollWidth <= panel.clientWidth")
