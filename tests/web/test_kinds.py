"""The dashboard's pages of every kind of job and of recipes, in a real browser."""

import csv
import json
import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.fixtures import LiveService
from tests.web.test_dashboard import HOSTILE, LATE, SOON, changed, expect_curve, expect_state, row_of

pytestmark = pytest.mark.e2e

SHORT = {"model": "cifar10-robust", "preset": "cifar", "steps": 12}
TITLE = "Inversion from other images"


def images(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": list(indices)}


def figure_3(service: LiveService, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = SHORT | {"images": images(0, 1, 2)} | changes
    return service.client.recipe("figure-3", **body)


def open_recipe(page: Page, service: LiveService, job_id: str) -> None:
    page.goto(f"{service.url}/ui/jobs/{job_id}")
    expect(page.get_by_role("heading", name=f"figure-3: {TITLE}")).to_be_visible(timeout=SOON)


def expect_loaded(pictures: Locator, names: list[str]) -> None:
    """Pictures with these captions, each of them there and not broken."""
    expect(pictures.locator(".caption")).to_have_text(names, timeout=SOON)
    for image in pictures.locator("img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0
    expect(pictures.locator("img")).to_have_count(len(names))


def test_a_recipe_shows_its_parts_while_it_runs_then_its_figure_and_claims(
    live_service: LiveService, page: Page
) -> None:
    job = figure_3(live_service)
    open_recipe(page, live_service, job["id"])
    page.evaluate("window.stayed = true")
    parts = page.get_by_role("table", name="Parts").locator("tbody tr")
    expect(parts.get_by_role("link")).to_have_text(["model", "baseline"], timeout=SOON)
    expect_state(page, "succeeded")
    expect(parts.locator(".badge")).to_have_text(["succeeded", "succeeded"], timeout=SOON)
    expect(parts.locator(".c-items")).to_have_text(["3 / 3", "3 / 3"])
    expect(parts.locator(".c-model")).to_have_text(["cifar10-robust", "cifar10-standard"])
    expect(page.locator("[data-ref=counts]")).to_have_text(re.compile("^2 parts2 succeeded"))
    assert page.evaluate("window.stayed")
    figure = page.get_by_role("img", name=TITLE)
    expect(figure).to_have_js_property("complete", True)
    assert figure.evaluate("image => image.naturalWidth") > 300
    expect(page.locator(".curve")).to_be_hidden()
    expect(page.locator("[data-ref=parameters]")).to_contain_text("cifar10-standard")

    claims = page.get_by_role("table", name=re.compile("^Claims"))
    expect(claims.locator("th[scope=col]")).to_have_text(
        ["Quantity", re.compile("cifar10-robust"), re.compile("cifar10-standard"), "Difference", "Claim"]
    )
    paths = {}
    for kind in ("PNG", "PDF", "JSON", "CSV"):
        with page.expect_download() as download:
            page.get_by_role("link", name=kind, exact=True).click()
        paths[kind] = download.value.path()
        assert download.value.suggested_filename.endswith(f".{kind.lower()}")
    assert paths["PDF"].read_bytes().startswith(b"%PDF")
    assert len(list(csv.DictReader(paths["CSV"].read_text().splitlines()))) == 6
    for claim in json.loads(paths["JSON"].read_text())["claims"]:
        row = claims.get_by_role("row").filter(has_text=claim["quantity"])
        interval = re.compile(r"-?[\d.e-]+ \[-?[\d.e-]+, -?[\d.e-]+\]null -?[\d.e-]+ \[")
        expect(row.get_by_role("cell").nth(0)).to_have_text(interval)
        verdict = {True: "✓ holds", False: "✗ does not hold", None: "–"}[claim["holds"]]
        expect(row.get_by_role("cell").last).to_contain_text(verdict)


def test_a_part_leads_to_its_recipe_and_back(live_service: LiveService, page: Page) -> None:
    job = figure_3(live_service)
    live_service.wait(job["id"])
    open_recipe(page, live_service, job["id"])
    page.get_by_role("link", name="baseline").click()
    expect(page).to_have_url(f"{live_service.url}/ui/jobs/{job['parts']['baseline']}")
    crumb = page.get_by_role("navigation", name="Breadcrumb")
    expect(crumb).to_contain_text(f"Jobs / figure-3: {TITLE} / baseline (inversion)", timeout=SOON)
    expect(page.locator(".card")).to_have_count(3, timeout=SOON)
    crumb.get_by_role("link", name=TITLE).click()
    expect(page).to_have_url(f"{live_service.url}/ui/jobs/{job['id']}")


def test_the_list_names_a_recipe_and_hides_its_parts(live_service: LiveService, page: Page) -> None:
    page.goto(f"{live_service.url}/ui/")
    job = figure_3(live_service)
    row = row_of(page, job["id"])
    expect(row.locator(".badge")).to_have_text("succeeded", timeout=LATE)
    expect(row.locator(".c-job")).to_contain_text(f"figure-3: {TITLE}")
    expect(row.locator(".c-model")).to_have_text("cifar10-robust, cifar10-standard")
    expect(row.locator(".c-items")).to_have_text("2 parts")
    for part in job["parts"].values():
        expect(row_of(page, part)).to_have_count(0)


def test_cancelling_a_recipe_says_that_its_parts_go_too(live_service: LiveService, page: Page) -> None:
    job = figure_3(live_service, steps=5000)
    open_recipe(page, live_service, job["id"])
    page.get_by_role("button", name="Cancel job").click()
    expect(page.get_by_role("dialog")).to_contain_text("Its parts are cancelled with it")
    page.get_by_role("button", name="Cancel the job").click()
    expect_state(page, "cancelled")
    badges = page.get_by_role("table", name="Parts").locator(".badge")
    expect(badges).to_have_text(["cancelled", "cancelled"], timeout=SOON)
    expect(page.get_by_role("region", name="Figure")).to_be_hidden()
    expect(page.locator(".curve")).to_be_hidden()


def test_a_recipe_that_cannot_be_drawn_says_why(live_service: LiveService, page: Page) -> None:
    job = figure_3(live_service, steps=5000)
    live_service.client.request("POST", f"/v1/jobs/{job['parts']['baseline']}/cancel")
    live_service.client.request("POST", f"/v1/jobs/{job['parts']['model']}/cancel")
    assert live_service.wait(job["id"])["state"] == "failed"
    open_recipe(page, live_service, job["id"])
    expect(page.locator(".note[data-tone=bad]")).to_contain_text("has no result to draw", timeout=SOON)


KINDS: list[tuple[dict[str, Any], str, list[str], str, str]] = [
    (
        {"kind": "radius_sweep", "targets": images(0, 1), "start": {"source": "other_target"}, "radii": [0.5, 4.0]},
        "#1 airplane, radius 4", ["target", "start", "result"], "distance", "Median relative distance",
    ),
    (
        # The median distance is that of an end of the path, which is zero.
        {"kind": "interpolation", "first": images(0), "second": images(3), "lambdas": [0.0, 0.5]},
        "#1 cat to airplane, 0.50", ["pixel blend", "result"], "ghosting", "Median relative distance",
    ),
    (
        {"kind": "interpolation", "first": images(0), "second": images(3), "lambdas": [0.0, 0.5],
         "start": {"source": "noise"}},
        "#1 cat to airplane, 0.50", ["pixel blend", "start", "result"], "ghosting", "Median relative distance",
    ),
    (
        {"kind": "feature_visualization", "coordinates": [3], "starts": [{"source": "noise"}, images(0)]},
        "#1 coordinate 3, from airplane", ["start", "result"], "predicts", "Median activation",
    ),
    (
        {"kind": "feature_manipulation", "coordinates": [3, 12], "images": images(0), "until": "threshold",
         "threshold": 1e6},
        "#1 coordinate 12, from airplane", ["start", "result"], "✗ not in 12 steps", "Median activation",
    ),
    (
        {"kind": "feature_manipulation", "coordinates": [3, 12], "images": images(0), "until": "threshold",
         "threshold": 0.0},
        "#1 coordinate 12, from airplane", ["start", "result"], "✓ after 0 steps", "Median activation",
    ),
    (
        {"kind": "inversion", "targets": {"source": "patterns", "patterns": ["stripes", "text"]}},
        "#1 text pattern", ["target", "start", "result"], "SSIM", "Median relative distance",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("body", "name", "captions", "number", "curve"), KINDS)
def test_every_kind_shows_the_pictures_and_numbers_that_it_has(
    live_service: LiveService, page: Page, body: dict[str, Any], name: str, captions: list[str], number: str, curve: str
) -> None:
    job = live_service.submit(SHORT | body)
    live_service.wait(job["id"])
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}")
    card = page.locator(".card").nth(1)
    expect(card.get_by_role("button")).to_have_text(name, timeout=SOON)
    expect_loaded(card, captions)
    expect(card.locator(".numbers")).to_contain_text(number)
    expect(page.locator(".curve .chart-title")).to_have_text(curve)
    if number == "✓ after 0 steps":  # a point, and no line
        expect(page.locator(".curve .plot")).to_have_attribute("aria-valuetext", re.compile("^step 0: "))
    else:
        expect_curve(page.locator(".curve"))


def test_the_detail_of_a_feature_has_its_extremes_animation_and_curve(live_service: LiveService, page: Page) -> None:
    top = {"dataset": "cifar10-sample", "k": 2}
    body = SHORT | {"kind": "feature_visualization", "coordinates": [3, 12], "frames": 4, "top_images": top}
    job = live_service.submit(body)
    live_service.wait(job["id"])
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}#item-1")
    detail = page.locator(".detail")
    expect_loaded(detail.locator(".viewed > :not([data-file=path])"), ["start", "result"])
    expect(detail.locator(".viewed [data-file=path] canvas")).to_be_visible(timeout=SOON)
    for end in ("top", "bottom"):
        row = detail.locator(".pictures").filter(has=page.locator(f"[data-file='{end}-1.png']"))
        expect_loaded(row, [re.compile(rf"^{end} {i}: -?\d") for i in (1, 2)])  # type: ignore[misc]
    quantity = detail.get_by_label("Quantity")
    expect(quantity.locator("option")).to_have_text(["Activation", "Loss", "Gradient norm"], timeout=SOON)
    slider = detail.get_by_role("slider", name="Activation")
    slider.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"^step 0: "))
    quantity.select_option("Loss")  # below zero, where a logarithmic axis would show nothing
    expect_curve(detail.locator(".chart"))
    expect(detail.get_by_role("table", name="Metrics")).to_contain_text("Activation at the start")
    detail.get_by_role("button", name="Previous item").click()
    expect(detail.get_by_role("heading", name="#0")).to_be_visible()
    expect(quantity).to_have_value("loss")


def test_motion_is_left_out_for_those_who_mind_it(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(SHORT | {"kind": "inversion", "targets": images(0), "frames": 4})
    live_service.wait(job["id"])
    page.emulate_media(reduced_motion="reduce")
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}#item-0")
    detail = page.locator(".detail")
    expect_loaded(detail.locator(".viewed > :not([data-file=path])"), ["target", "start", "result"])
    expect(detail.get_by_role("link", name="path.gif")).to_be_visible()
    expect(detail.locator("img[src*='path.gif']")).to_have_count(0)


def test_hostile_text_in_a_recipe_stays_text(live_service: LiveService, page: Page) -> None:
    job = figure_3(live_service)
    live_service.wait(job["id"])

    def poison_job(body: dict[str, Any]) -> None:
        body["parameters"] |= {HOSTILE: HOSTILE}
        body["title"] = HOSTILE
        body["parts"] = {HOSTILE: next(iter(body["parts"].values()))}

    def poison_numbers(body: dict[str, Any]) -> None:
        body["networks"]["model"] = HOSTILE
        body["claims"][0] |= {"quantity": HOSTILE, "statistic": HOSTILE}

    page.route(f"**/v1/jobs/{job['id']}", changed(poison_job))
    page.route("**/artifacts/numbers.json?*", changed(poison_numbers))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}")
    expect(page.locator(".claims tbody th").first).to_contain_text(HOSTILE, timeout=SOON)
    expect(page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    expect(page.locator(".parts").get_by_role("link", name=HOSTILE)).to_be_visible()
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_no_recipe_scrolls_sideways(live_service: LiveService, page: Page) -> None:
    """At any width of window, with the most columns that a table of claims has."""
    body: dict[str, Any] = SHORT | {"first": images(0, 1), "second": images(3, 4), "lambdas": [0.0, 0.5, 1.0]}
    job = live_service.client.recipe("figure-12", **body)
    live_service.wait(job["id"])
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}")
    expect(page.locator(".claims tbody tr").first).to_be_visible(timeout=SOON)
    for width in (360, 640, 730, 820, 1000, 1100, 1280, 1920):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, width
