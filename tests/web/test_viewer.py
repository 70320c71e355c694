"""One item looked at closely: its pictures beside each other, as a difference, in turn, and as they came about."""

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.fixtures import LiveService, inversion
from tests.web.gallery import Still, computed, shade
from tests.web.test_dashboard import LATE, LONG, SOON, changed, page_with_failing_requests

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def job(still_service: Still) -> str:
    return computed(still_service, 5)


def look(page: Page, still: Still, job: str, index: int = 0) -> Locator:
    """The dialog of an item."""
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"{still[0].url}/ui/jobs/{job}#item-{index}")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=f"#{index} ")).to_be_visible(timeout=SOON)
    return dialog


def test_a_difference_is_that_of_the_pixels(still_service: Still, job: str, page: Page) -> None:
    dialog = look(page, still_service, job)
    dialog.get_by_role("button", name="Difference").click()
    gap = shade("result.png", 0) - shade("target.png", 0)
    l2 = gap / 255 * (3 * (32 * 32 - 1)) ** 0.5  # all but the white pixel
    expect(dialog.locator("[data-file=difference]")).to_contain_text(f"L2 {l2:.3g}, at most {gap / 255:.3g}")
    middle = "canvas => [...canvas.getContext('2d').getImageData(16, 16, 1, 1).data]"
    canvas = dialog.get_by_role("img", name="difference")
    drawn = canvas.element_handle()
    for gain in (1, 4):
        dialog.get_by_label("Strength").select_option(f"{gain}× as strong")
        close = f"canvas => Math.abs(({middle})(canvas)[0] - {127.5 + gain * gap / 2}) <= 1"
        page.wait_for_function(close, arg=drawn, timeout=SOON)
    dialog.get_by_label("First picture").select_option("result")
    expect(dialog.locator("[data-file=difference]")).to_contain_text("L2 0,")


def test_two_pictures_flicker_and_stand_still_for_those_who_mind(still_service: Still, job: str, page: Page) -> None:
    dialog = look(page, still_service, job)
    page.keyboard.press("f")
    caption = dialog.locator("[data-file=flicker] .caption")
    for shown in ("target", "result", "target"):
        expect(caption).to_have_text(shown)
    dialog.get_by_role("button", name="Stop").click()
    page.emulate_media(reduced_motion="reduce")
    dialog = look(page, still_service, job, 1)
    dialog.get_by_role("button", name="Flicker").click()
    page.wait_for_timeout(1000)
    expect(caption).to_have_text("target")
    dialog.get_by_role("button", name="Switch").click()
    expect(caption).to_have_text("result")
    expect(dialog.locator("[data-file=flicker] img.away")).to_have_attribute("alt", re.compile("^target"))


def test_all_pictures_are_zoomed_and_moved_alike_without_smoothing(still_service: Still, job: str, page: Page) -> None:
    dialog = look(page, still_service, job)
    images = dialog.locator(".viewed img")
    expect(images).to_have_count(3)
    for _ in range(3):
        dialog.get_by_role("button", name="Zoom in").click()
    expect(dialog.locator(".viewer-bar output")).to_have_text("8×")
    page.mouse.move(300, 300)
    page.mouse.down()
    page.mouse.move(360, 320)
    page.mouse.up()
    moved = {image.evaluate("image => image.style.transform") for image in images.all()}
    assert len(moved) == 1
    assert re.fullmatch(r"translate\(\d[\d.]*%, \d[\d.]*%\) scale\(8\)", moved.pop())
    assert {image.evaluate("image => getComputedStyle(image).imageRendering") for image in images.all()} == {
        "pixelated"
    }
    dialog.get_by_role("button", name="Whole picture").click()
    expect(images.first).to_have_attribute("style", re.compile(r"scale\(1\)"))


def test_arrows_lead_through_the_items(still_service: Still, job: str, page: Page) -> None:
    dialog = look(page, still_service, job, 3)
    dialog.get_by_role("button", name="Next item").click()
    expect(dialog).to_contain_text("5 of 5")
    expect(page).to_have_url(re.compile("#item-4$"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(dialog.get_by_role("heading", name="#3 ")).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(page).to_have_url(re.compile("[^#]+$"))


def test_the_viewer_tells_its_keys(still_service: Still, job: str, page: Page) -> None:
    look(page, still_service, job)
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keyboard")
    expect(keys.get_by_role("row").filter(has_text="In turn")).to_contain_text("f")
    page.keyboard.press("Escape")
    expect(keys).to_have_count(0)


def test_small_pictures_are_shown_by_whole_pixels(still_service: Still, job: str, page: Page) -> None:
    for width in (360, 1280, 1700):
        look(page, still_service, job)
        page.set_viewport_size({"width": width, "height": 900})
        sizes = page.locator(":is(.viewed, .card) .frame").evaluate_all("all => all.map((each) => each.clientWidth)")
        assert {size % 32 for size in sizes} == {0}


def test_what_runs_and_what_is_paused_has_a_curve_and_numbers(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG)
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}#item-0")
    dialog = page.get_by_role("dialog")
    metrics = dialog.get_by_role("table", name="Metrics")
    expect(metrics).to_contain_text(re.compile(r"Step\d.* of .*Relative distance0?\."), timeout=LATE)
    expect(dialog.locator(".chart")).to_contain_text("this item")
    live_service.client.pause(job["id"])
    expect(dialog.locator("[data-file='result.png']")).to_contain_text("paused at step", timeout=LATE)
    expect(dialog.locator("[data-file='result.png'] img")).to_have_js_property("naturalWidth", 32)
    live_service.client.cancel(job["id"])


def test_a_preview_that_is_gone_is_no_broken_picture(still_service: Still, job: str, page: Page) -> None:
    def emerging(body: dict[str, Any]) -> None:
        item = body["items"][0]
        item["artifacts"] = [each for each in item["artifacts"] if each["name"] != "result.png"]
        item |= {"state": "running", "preview": {"step": 3, "at": item["finished_at"], "url": "/v1/gone.png"}}

    with page_with_failing_requests(page) as other:
        other.route("**/items?*", changed(emerging))
        result = look(other, still_service, job).locator(".viewed [data-file='result.png']")
        expect(result).to_contain_text("running")
        expect(result.locator("img")).to_have_count(0)


def test_the_frames_of_a_search_are_stepped_through(live_service: LiveService, page: Page) -> None:
    targets = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1]}
    job = live_service.submit(inversion(targets=targets, frames=5, steps=20))
    live_service.wait(job["id"])

    def without(body: dict[str, Any]) -> None:
        """Its second item has no trace."""
        for item in body["items"][1:]:
            item["artifacts"] = [each for each in item["artifacts"] if each["name"] != "trace.json"]

    page.route("**/items?*", changed(without))
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}#item-0")
    slider = page.get_by_role("slider", name="Frame")
    expect(slider).to_have_attribute("aria-valuetext", "step 20 of 20", timeout=SOON)
    path = page.locator(".viewed [data-file=path] canvas")
    expect(path).to_have_js_property("width", 32)
    seen = {path.evaluate("canvas => canvas.toDataURL()")}
    for _ in range(4):
        slider.press("ArrowLeft")
        seen.add(path.evaluate("canvas => canvas.toDataURL()"))
    assert len(seen) == 5
    expect(slider).to_have_attribute("aria-valuetext", "step 0 of 20")
    curve = page.get_by_role("dialog").locator(".plot")
    expect(curve).to_have_attribute("aria-valuetext", re.compile("^step 0: "))
    page.get_by_role("button", name="Play").click()
    expect(slider).to_have_attribute("aria-valuetext", "step 20 of 20")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="#1 ").click()
    expect(page.get_by_role("dialog").get_by_role("heading", name="#1 ")).to_be_visible()
    expect(slider).to_be_hidden()
