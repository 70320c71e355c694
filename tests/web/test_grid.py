"""The grid of a job's items in a real browser: thousands of them, in any order, some of them, and as they emerge."""

import re

import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect
from sqlalchemy import update

from bench.dashboard import moved
from service.models import Item, Job
from tests.fixtures import LiveService, inversion
from tests.web.gallery import Still, computed, distance
from tests.web.test_dashboard import HOSTILE, LATE, LONG, SOON, open_job, page_with_failing_requests

pytestmark = pytest.mark.e2e

MANY = 2000


@pytest.fixture(scope="module")
def many(still_service: Still) -> str:
    """A job whose items are over, but for some that failed, and a table that is none."""
    job = computed(still_service, MANY)
    with still_service[1].transaction() as session:
        counts = {"failed": 3, "succeeded": MANY - 3}
        session.execute(update(Job).where(Job.id == job).values(counts=counts))
        own = update(Item).where(Item.job_id == job)
        error = {"title": HOSTILE, "detail": "why"}
        session.execute(own.where(Item.index.in_([7, 8, 1500])).values(state="failed", error=error, metrics=None))
        table = {"source": "table", "label": "items.parquet"}
        found = {"target": table, "start": {"source": "table"}, "metrics": {"rows": MANY - 1, "columns": 9}}
        session.execute(own.where(Item.index == MANY - 1).values(found))
    return job


def open_grid(page: Page, still: Still, job: str, query: str = "") -> None:
    page.set_viewport_size({"width": 1400, "height": 900})
    page.goto(f"{still[0].url}/ui/jobs/{job}{query}")
    expect(page.locator(".card:not([data-blank])").first).to_be_visible(timeout=SOON)


def names(page: Page, count: int) -> list[str]:
    """What the first cards are called."""
    return [text.split()[0] for text in page.locator(".card .open").all_text_contents()[:count]]


def test_a_grid_of_thousands_is_a_window_on_them(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    cards = page.locator(".card")
    expect(cards.first).to_have_attribute("aria-setsize", str(MANY))
    page.get_by_role("button", name="#0 airplane").press("ArrowDown")
    expect(page.locator(".card:focus-within")).to_have_attribute("aria-posinset", "4")
    page.keyboard.press("End")
    last = page.locator(".card:focus-within")
    expect(last).to_have_attribute("aria-posinset", str(MANY))
    expect(last).to_contain_text("rows 1,999")
    expect(last.locator(".picture")).to_have_count(0)
    assert cards.count() < 60
    neighbour = page.locator(f".card[data-position='{MANY - 2}']")
    expect(neighbour.locator("img")).to_have_count(3)
    for image in neighbour.locator("img").all():
        expect(image).to_have_js_property("naturalWidth", 32)


def test_the_order_lives_in_the_address(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    page.get_by_label("Sort by").select_option("Relative distance")
    page.get_by_role("button", name="Ascending").click()
    ordered = sorted(set(range(MANY - 1)) - {7, 8, 1500}, key=lambda i: (-distance(i), i))
    first = [f"#{i}" for i in ordered[:3]]
    expect(page.locator(".card .open").first).to_contain_text(f"{first[0]} ")
    assert names(page, 3) == first
    page.reload()
    expect(page.locator(".card .open").first).to_contain_text(f"{first[0]} ", timeout=SOON)
    page.get_by_role("button", name=first[1]).click()
    expect(page.get_by_role("dialog")).to_contain_text(f"2 of {MANY}")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog").get_by_role("heading", name=f"{first[2]} ")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=first[2])).to_be_focused()
    page.go_back()
    expect(page.get_by_role("button", name="Ascending")).to_be_visible()


def test_an_order_that_is_taken_back_shows_all_as_before(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    page.get_by_role("button", name="Ascending").click()
    expect(page.locator(".card .open").first).to_contain_text(f"#{MANY - 1} ")
    page.get_by_role("button", name="Descending").click()
    expect(page.locator(".card .open").first).to_contain_text("#0 ")
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", str(MANY))


def test_an_order_that_is_none_leaves_the_page_to_choose_another(still_service: Still, many: str, page: Page) -> None:
    with page_with_failing_requests(page) as other:
        other.goto(f"{still_service[0].url}/ui/jobs/{many}?sort=a%20b&state=foo")
        expect(other.locator(".items .note")).to_contain_text("sort", timeout=SOON)
        expect(other.get_by_title("Copy the id")).to_have_text(many)
        order = other.locator(".order")
        order.get_by_label("State").select_option("all")
        order.get_by_label("Sort by").select_option("index")
        expect(other.locator(".card .open").first).to_contain_text("#0 ")
        expect(other.locator(".items .note")).to_have_count(0)


def over(still: Still, job: str, state: str, count: int, total: int) -> None:
    """The first items of a job that goes on are in this state from now on, the others queued."""
    with still[1].transaction() as session:
        counts = {state: count, "queued": total - count} if state != "queued" else {"queued": total}
        error = {"title": "it broke", "detail": "why"} if state == "failed" else None
        session.execute(update(Item).where(Item.job_id == job, Item.index < count).values(state=state, error=error))
        session.execute(update(Job).where(Job.id == job).values(counts=counts))


def queued(still: Still, count: int) -> str:
    of = {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(count))}
    return str(still[0].submit(inversion(targets=of))["id"])


def test_a_retry_from_elsewhere_is_seen(still_service: Still, page: Page) -> None:
    job = queued(still_service, 60)
    over(still_service, job, "failed", 50, 60)
    open_grid(page, still_service, job)
    badge = page.locator(".card .badge").first
    expect(badge).to_have_text("failed")
    over(still_service, job, "queued", 50, 60)
    expect(badge).to_have_text("queued")


def test_an_answer_from_before_a_change_is_not_the_last(still_service: Still, page: Page) -> None:
    job = queued(still_service, 4)
    open_grid(page, still_service, job)
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/items?*", lambda route: held.append((route, route.fetch())), times=1)
    states = page.locator(".order").get_by_label("State")
    states.select_option("queued")
    while not held:
        page.wait_for_timeout(20)
    over(still_service, job, "succeeded", 1, 4)
    expect(states).to_contain_text("succeeded (1)")
    route, old = held.pop()
    route.fulfill(response=old)
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", "3", timeout=2500)  # asked again at once
    expect(page.locator(".card .open").first).to_contain_text("#1 ")


def test_the_size_of_what_is_filtered_is_told_as_it_changes(still_service: Still, page: Page) -> None:
    job = queued(still_service, 4)
    open_grid(page, still_service, job, "?state=queued")
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", "4")
    over(still_service, job, "succeeded", 1, 4)
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", "3")


def test_items_are_filtered_by_state_and_cause(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    page.locator(".order").get_by_label("State").select_option(label="failed (3)")
    expect(page.locator(".card")).to_have_count(3)
    assert names(page, 3) == ["#7", "#8", "#1500"]
    expect(page.locator(".order")).to_contain_text("3 of 2,000")
    page.go_back()
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", str(MANY))
    open_grid(page, still_service, many, f"?error={HOSTILE}")
    expect(page.locator(".card")).to_have_count(3)
    page.get_by_role("button", name="Show items that failed by other causes").click()
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", str(MANY))
    open_grid(page, still_service, many, "?state=failed#item-5")  # an item that is not among them
    expect(page.get_by_role("dialog").get_by_role("heading", name="#5 ")).to_be_visible()


def test_items_are_filtered_by_a_metrics_value(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    order = page.locator(".order")
    order.get_by_label("Only where").select_option("Relative distance")
    order.get_by_label("How it compares").select_option("≤")
    order.get_by_label("Value to compare with").fill("0.002")
    page.keyboard.press("Enter")
    near = [i for i in range(MANY - 1) if distance(i) <= 0.002]
    expect(order).to_contain_text(f"{len(near)} of 2,000", timeout=LATE)
    expect(page.locator(".card")).to_have_count(len(near), timeout=LATE)
    assert names(page, len(near)) == [f"#{i}" for i in near]
    page.reload()
    expect(order).to_contain_text(f"{len(near)} of 2,000", timeout=LATE)
    order.get_by_role("button", name="Ascending").click()
    expect(page.locator(".card .open").first).to_contain_text(f"#{near[-1]} ", timeout=LATE)
    order.get_by_role("button", name="No longer only where Relative distance ≤ 0.002").click()
    expect(page.locator(".card").first).to_have_attribute("aria-setsize", str(MANY), timeout=LATE)


def test_chosen_items_lead_to_their_curves(still_service: Still, many: str, page: Page) -> None:
    open_grid(page, still_service, many)
    for index in (4, 1):
        page.get_by_label(f"Choose item {index}", exact=True).check()
    expect(page.locator(".picked")).to_contain_text("2 items chosen")
    link = page.get_by_role("link", name="Their curves")
    expect(link).to_have_attribute("href", "?tab=curves&curves=4%2C1")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".card input:checked")).to_have_count(0)
    expect(link).to_have_count(0)


def test_nothing_that_is_like_it_says_so(still_service: Still, many: str, page: Page) -> None:
    page.goto(f"{still_service[0].url}/ui/jobs/{many}?state=cancelled")
    expect(page.get_by_text("No item is like that.")).to_be_visible(timeout=SOON)


def test_scrolling_keeps_the_browser_free(still_service: Still, many: str, browser: Browser, page: Page) -> None:
    open_grid(page, still_service, many)
    page.mouse.move(400, 500)
    found = moved(browser, page, "wheel", 2, lambda: page.mouse.wheel(0, 300))
    assert page.evaluate("scrollY") > 3000
    expect(page.locator(".order")).to_be_in_viewport()
    assert found["wheel: longest task, processor"] < 100


def test_pictures_emerge_while_the_job_runs(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG)
    open_job(page, live_service, job["id"])
    result = page.locator(".card").first.locator("[data-file='result.png']")
    seen = result.get_by_role("img")
    expect(seen).to_have_attribute("alt", re.compile(r"^step [\d,]+ of item 0"), timeout=LATE)
    before = str(seen.get_attribute("src"))
    expect(seen).not_to_have_attribute("src", before, timeout=LATE)
    expect(seen).to_have_js_property("naturalWidth", 32)
    live_service.client.cancel(job["id"])
