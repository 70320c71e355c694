"""Two jobs item by item in a real browser."""

import re
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from service.models import Item
from tests.web.gallery import Still, computed, distance
from tests.web.test_dashboard import HOSTILE, SOON, changed, page_with_failing_requests

pytestmark = pytest.mark.e2e


def images(*indices: int) -> dict[str, Any]:
    return {"targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": indices}}


@pytest.fixture(scope="module")
def pair(still_service: Still) -> tuple[str, str]:
    """A robust network's job and a standard one's, whose distances are twice as large."""
    robust, standard = computed(still_service, 12), computed(still_service, 12, model="cifar10-standard")
    with still_service[1].transaction() as session:
        for i in range(12):
            row = update(Item).where(Item.job_id == standard, Item.index == i)
            session.execute(row.values(metrics={"relative_distance": 2 * distance(i), "ssim": 0.25}))
    return robust, standard


def compare(page: Page, still: Still, a: str, b: str, query: str = "") -> None:
    page.set_viewport_size({"width": 1300, "height": 900})
    page.goto(f"{still[0].url}/ui/compare?a={a}&b={b}{query}")
    expect(page.locator(".card:not([data-blank])").first).to_be_visible(timeout=SOON)


def test_a_job_is_compared_with_another_of_its_kind(still_service: Still, pair: tuple[str, str], page: Page) -> None:
    page.goto(f"{still_service[0].url}/ui/jobs/{pair[0]}")
    page.get_by_role("button", name="Compare with").click()
    page.get_by_role("dialog").get_by_role("listitem").filter(has_text=pair[1]).get_by_role("link").click()
    expect(page).to_have_url(re.compile(f"a={pair[0]}&b={pair[1]}$"))
    card = page.locator(".card").nth(3)
    expect(card.locator(".caption")).to_have_text(["target", "start", "cifar10-robust", "cifar10-standard"])
    expect(card.locator(".numbers")).to_contain_text("distance 0.022 → 0.044 (+0.022)")
    expect(card.locator(".numbers")).to_contain_text("SSIM 0.5 → 0.25 (−0.25)")
    sides = page.get_by_role("table", name="The two jobs")
    expect(sides.get_by_role("row").filter(has_text="model")).to_contain_text("cifar10-standard")
    card.get_by_role("button").click()
    dialog = page.get_by_role("dialog")
    row = dialog.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Relative distance", exact=True))
    expect(row.get_by_role("cell")).to_have_text(["0.022", "0.044", "+0.022"])
    page.keyboard.press("d")
    expect(dialog.locator(".viewed .caption")).to_have_text(["cifar10-robust", "cifar10-standard", re.compile("L2 0,")])
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading", name="#4 ")).to_be_visible()
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Swap them").click()
    expect(card.locator(".numbers")).to_contain_text("distance 0.044 → 0.022 (−0.022)", timeout=SOON)


def test_pairs_stay_together_in_any_order(still_service: Still, pair: tuple[str, str], page: Page) -> None:
    compare(page, still_service, *pair, "&sort=relative_distance&order=desc")
    for i, card in enumerate(page.locator(".card").all()[:4]):
        index = 11 - i
        expect(card.get_by_role("button")).to_contain_text(f"#{index} ")
        d = distance(index)
        expect(card.locator(".numbers")).to_contain_text(f"distance {d:.3g} → {2 * d:.3g} (+{d:.3g})")


def test_all_pairs_are_summed_up_and_ordered_by_their_difference(
    still_service: Still, pair: tuple[str, str], page: Page
) -> None:
    compare(page, still_service, *pair)
    row = page.get_by_role("table", name="Summary of all pairs").get_by_role("row")
    middle = median(distance(i) for i in range(12))
    found = [f"{middle:.3g}", f"{2 * middle:.3g}", f"+{middle:.3g}", "in 12 of 12"]
    expect(row.filter(has_text="Relative distance").get_by_role("cell")).to_have_text(found, timeout=SOON)
    expect(row.filter(has_text="SSIM").get_by_role("cell")).to_have_text(["0.5", "0.25", "−0.25", "in 0 of 12"])
    page.get_by_label("Sort by").select_option("difference: Relative distance")
    page.get_by_role("button", name="Ascending").click()
    expect(page.locator(".card .open").first).to_contain_text("#11 ")
    page.reload()
    expect(page.locator(".card .open").first).to_contain_text("#11 ", timeout=SOON)
    expect(page.locator(".card").first.locator(".numbers")).to_contain_text("(+0.078)")


def test_those_with_common_targets_are_offered_first(
    still_service: Still, elsewhere: tuple[str, str], page: Page
) -> None:
    page.goto(f"{still_service[0].url}/ui/jobs/{elsewhere[0]}")
    page.get_by_role("button", name="Compare with").click()
    dialog = page.get_by_role("dialog")
    other = dialog.get_by_role("listitem").filter(has_text=elsewhere[1])
    expect(other).to_contain_text("2 of the 3 targets in common", timeout=SOON)


@pytest.fixture(scope="module")
def elsewhere(still_service: Still) -> tuple[str, str]:
    """Two jobs that have their items in different places, and one that only the first has."""
    first, second = ((5, 6, 7), (7, 9, 5))
    return computed(still_service, 3, **images(*first)), computed(still_service, 3, **images(*second))


def test_items_are_matched_by_their_targets(still_service: Still, elsewhere: tuple[str, str], page: Page) -> None:
    compare(page, still_service, *elsewhere)
    cards = page.locator(".card")
    for i, partner in {0: 2, 2: 0}.items():
        result = cards.nth(i).locator(".picture img").last
        expect(result).to_have_attribute("src", re.compile(f"{elsewhere[1]}/items/{partner}/"))
    expect(cards.nth(1)).to_contain_text("The other job has no item for this.")


def test_partners_come_after_a_request_that_failed(
    still_service: Still, elsewhere: tuple[str, str], page: Page
) -> None:
    with page_with_failing_requests(page) as other:
        failing = re.compile(f"{elsewhere[1]}/items.*limit=500")
        other.route(failing, lambda route: route.fulfill(status=503, json={}), times=1)
        compare(other, still_service, *elsewhere)
        expect(other.locator(".card:not([data-blank])")).to_have_count(3)
        expect(other.locator("#banner")).to_be_empty()


def test_where_not_all_were_looked_through_is_said(
    still_service: Still, elsewhere: tuple[str, str], page: Page
) -> None:
    def many(body: dict[str, Any]) -> None:
        body["items"]["total"] = 20_000

    page.route(f"**/v1/jobs/{elsewhere[1]}", changed(many))
    compare(page, still_service, *elsewhere)
    expect(page.locator(".card").nth(1)).to_contain_text("Not found among the first 10,000 items of the other job.")


def test_an_order_that_is_none_leaves_the_comparison(still_service: Still, pair: tuple[str, str], page: Page) -> None:
    with page_with_failing_requests(page) as other:
        other.goto(f"{still_service[0].url}/ui/compare?a={pair[0]}&b={pair[1]}&sort=a%20b")
        expect(other.locator(".items .note")).to_contain_text("sort", timeout=SOON)
        other.get_by_label("Sort by").select_option("index")
        expect(other.locator(".card").first).to_contain_text("distance 0.001 → 0.002")


def test_hostile_text_of_two_jobs_stays_text(still_service: Still, pair: tuple[str, str], page: Page) -> None:
    def poison(body: dict[str, Any]) -> None:
        for item in body["items"]:
            item["target"] |= {"label": HOSTILE}

    def poison_job(body: dict[str, Any]) -> None:
        body["networks"] = [HOSTILE]
        body["parameters"] |= {HOSTILE: body["id"]}

    page.route("**/items?*", changed(poison))
    page.route(re.compile(f"/v1/jobs/({'|'.join(pair)})$"), changed(poison_job))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    compare(page, still_service, *pair)
    page.locator(".card .open").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
    expect(page.locator(".sides")).to_contain_text(HOSTILE)
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_a_job_that_is_not_there_is_said(still_service: Still, pair: tuple[str, str], page: Page) -> None:
    page.goto(f"{still_service[0].url}/ui/compare?a={pair[0]}")
    expect(page.get_by_role("heading", name="Nothing to compare")).to_be_visible()
    with page_with_failing_requests(page) as other:
        other.goto(f"{still_service[0].url}/ui/compare?a={pair[0]}&b=job_{'0' * 24}")
        expect(other.get_by_role("heading", name="No such job")).to_be_visible(timeout=SOON)
