"""The dashboard in a real browser, on a real service with a real worker."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Locator, Page, Route, expect

from tests.fixtures import LiveService, close

pytestmark = pytest.mark.e2e

TARGETS = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1, 2]}
SHORT = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 20, "targets": TARGETS}
LONG = SHORT | {"steps": 5000}
SOON, LATE = 90_000, 240_000  # milliseconds: an answer of the API, the end of a short job
HOSTILE = "<img src=x onerror=alert(1)>"


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator("tbody tr").filter(has_text=job_id)


def open_job(page: Page, service: LiveService, job_id: str) -> None:
    page.goto(f"{service.url}/ui/jobs/{job_id}")
    expect(page.get_by_title("Copy the id")).to_have_text(job_id, timeout=SOON)


def expect_state(page: Page, state: str) -> None:
    expect(page.locator(".title-row .badge")).to_have_text(state, timeout=LATE)


def expect_curve(chart: Locator) -> None:
    """Drawn, with more than one step to point at."""
    expect(chart.locator(".plot")).to_have_attribute("aria-valuemax", re.compile("^[1-9]"), timeout=LATE)
    expect(chart.locator(".plot canvas")).to_be_visible()


@contextmanager
def page_with_failing_requests(page: Page) -> Iterator[Page]:
    """A second page, because the browser itself logs each failed request as an error; any other error still fails."""
    browser = page.context.browser
    assert browser is not None
    other = browser.new_page()
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            errors.append(message.text)

    other.on("console", note)
    other.on("pageerror", lambda error: errors.append(str(error)))
    yield other
    close(other)
    assert errors == []


def changed(change: Callable[[dict[str, Any]], None]) -> Callable[[Route], None]:
    """A route that asks the real service and alters the answer on its way."""

    def handle(route: Route) -> None:
        response = route.fetch()
        body = response.json()
        change(body)
        route.fulfill(response=response, json=body)

    return handle


def test_the_list_follows_a_new_job_to_its_end_without_a_reload(live_service: LiveService, page: Page) -> None:
    page.goto(f"{live_service.url}/ui/")
    page.evaluate("window.stayed = true")
    job = live_service.submit(SHORT)
    row = row_of(page, job["id"])
    expect(row.locator(".badge")).to_have_text("succeeded", timeout=LATE)
    expect(row.locator(".c-items")).to_have_text("3 / 3")
    assert page.evaluate("window.stayed")
    row.get_by_role("link").click()
    expect(page).to_have_url(f"{live_service.url}/ui/jobs/{job['id']}")


def test_a_job_page_shows_progress_then_pictures(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(SHORT)
    open_job(page, live_service, job["id"])
    expect(page.locator("[data-ref=numbers]")).to_contain_text("of 60 image-steps")
    expect_state(page, "succeeded")
    expect(page.get_by_role("progressbar", name="Steps done")).to_have_js_property("value", 1)
    cards = page.locator(".card")
    expect(cards).to_have_count(3)
    for card in cards.all():
        card.scroll_into_view_if_needed()
        pictures = card.locator("img")
        expect(pictures).to_have_count(3)
        for picture in pictures.all():
            expect(picture).to_have_js_property("complete", True)
            assert picture.evaluate("image => image.naturalWidth") > 0
        expect(card.locator(".numbers")).to_contain_text(re.compile(r"distance \d"))


def test_a_selected_item_shows_its_curve_metrics_and_files(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(SHORT)
    live_service.wait(job["id"])
    open_job(page, live_service, job["id"])
    page.get_by_role("button", name="#1").click()
    detail = page.locator(".detail")
    expect_curve(detail)
    expect(detail.get_by_role("table", name="Metrics")).to_contain_text("SSIM with the target")
    with page.expect_download() as download:
        detail.get_by_role("link", name="result.png").click()
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    detail.get_by_role("slider").press("Home")
    expect(detail.get_by_role("slider")).to_have_attribute("aria-valuetext", re.compile(r"^step [01]: "))
    page.reload()
    expect(detail).to_be_visible(timeout=SOON)  # the selection is in the address
    detail.get_by_role("button", name="Close").press("Escape")
    expect(detail).to_have_count(0)
    expect(page.get_by_role("button", name="#1")).to_be_focused()


def test_polls_keep_the_elements_and_end_with_the_job(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(SHORT)
    open_job(page, live_service, job["id"])
    expect(page.locator(".card")).to_have_count(3, timeout=SOON)
    page.evaluate("for (const card of document.querySelectorAll('.card')) card.kept = true")
    expect_state(page, "succeeded")
    expect(page.locator(".card img")).to_have_count(9, timeout=SOON)
    assert page.evaluate("[...document.querySelectorAll('.card')].every((card) => card.kept)")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(5_000)
    assert [url for url in asked if "/artifacts/" not in url] == []


def test_a_running_job_draws_its_curve_and_cancel_asks_first(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG)
    open_job(page, live_service, job["id"])
    curve = page.locator(".curve")
    expect_curve(curve)
    cancel = page.get_by_role("button", name="Cancel job")
    cancel.click()
    page.get_by_role("button", name="Keep it running").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    cancel.click()
    page.get_by_role("button", name="Cancel the job").click()
    expect_state(page, "cancelled")
    expect(cancel).to_be_hidden()
    expect(curve).to_be_visible()  # what was seen of it stays
    assert live_service.wait(job["id"])["state"] == "cancelled"


def test_the_state_filter_lives_in_the_url(live_service: LiveService, page: Page) -> None:
    done = live_service.submit(SHORT)
    live_service.wait(done["id"])
    page.goto(f"{live_service.url}/ui/?state=succeeded")
    expect(page.get_by_label("State")).to_have_value("succeeded")
    expect(row_of(page, done["id"])).to_be_visible(timeout=SOON)
    page.get_by_label("State").select_option("failed")
    expect(page).to_have_url(re.compile(r"\?state=failed$"))
    expect(row_of(page, done["id"])).to_have_count(0)
    page.reload()
    expect(page.get_by_label("State")).to_have_value("failed")
    page.go_back()
    expect(row_of(page, done["id"])).to_be_visible(timeout=SOON)


def test_the_empty_list_says_how_to_submit(live_service: LiveService, page: Page) -> None:
    # A true answer without jobs, whatever other tests left behind: the state that no job here ever has.
    page.route("**/v1/jobs?*", lambda route: route.continue_(url=f"{route.request.url}&state=expired"))
    page.goto(f"{live_service.url}/ui/")
    expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible(timeout=SOON)
    expect(page.locator("pre")).to_contain_text(f"curl {live_service.url}/v1/jobs")


def test_a_banner_tells_that_the_api_is_away_until_it_is_back(live_service: LiveService, page: Page) -> None:
    with page_with_failing_requests(page) as other:
        other.goto(f"{live_service.url}/ui/")
        expect(other.locator(".loading")).to_have_count(0, timeout=SOON)
        other.route("**/v1/**", lambda route: route.abort())
        expect(other.get_by_role("alert")).to_contain_text("Cannot reach the API, retrying", timeout=SOON)
        other.route("**/ui/workers", lambda route: route.abort())
        other.get_by_role("link", name="Workers").click()
        other.wait_for_timeout(500)  # long enough to be elsewhere
        expect(other.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
        other.unroute("**/ui/workers")
        other.unroute("**/v1/**")
        expect(other.get_by_role("heading", name="Workers")).to_be_visible(timeout=LATE)
        expect(other.get_by_role("alert")).to_be_empty(timeout=SOON)


def test_an_unknown_job_has_a_page_that_says_so(live_service: LiveService, page: Page) -> None:
    with page_with_failing_requests(page) as other:
        other.goto(f"{live_service.url}/ui/jobs/job_{'0' * 24}")
        expect(other.get_by_role("heading", name="No such job")).to_be_visible(timeout=SOON)
        other.get_by_role("link", name="Back to all jobs").click()
        expect(other.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()


def test_hostile_text_stays_text(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(SHORT)
    live_service.wait(job["id"])

    def poison_job(body: dict[str, Any]) -> None:
        body["warnings"] = [HOSTILE]
        body["error"] = {"type": "about:blank", "title": HOSTILE, "detail": HOSTILE}
        body["parameters"] |= {"model": HOSTILE, HOSTILE: HOSTILE}

    def poison_items(body: dict[str, Any]) -> None:
        for item in body["items"]:
            item["target"] = {"label": HOSTILE, "source": HOSTILE}
            item["metrics"] |= {"judge_prediction": HOSTILE, "judge_agrees": False}

    page.route(f"**/v1/jobs/{job['id']}", changed(poison_job))
    page.route(f"**/v1/jobs/{job['id']}/items?*", changed(poison_items))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    open_job(page, live_service, job["id"])
    page.get_by_role("button", name="#0").click()
    expect(page.locator(".note").filter(has_text=HOSTILE)).to_have_count(2)
    expect(page.locator(".detail")).to_contain_text(HOSTILE)
    expect(page.locator("[data-ref=parameters]")).to_contain_text(HOSTILE)
    expect(page.locator("img[src=x]")).to_have_count(0)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_scrolls_sideways(live_service: LiveService, page: Page, width: int) -> None:
    job = live_service.submit(SHORT)
    live_service.wait(job["id"])
    page.set_viewport_size({"width": width, "height": 844})
    for path in ("/ui/", f"/ui/jobs/{job['id']}#item-0"):
        page.goto(live_service.url + path)
        expect(page.get_by_text(job["id"]).first).to_be_visible(timeout=SOON)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
