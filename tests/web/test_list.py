"""The list of jobs in a real browser: what a row says, filters, views, several jobs at once, keys, themes, banners."""

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from sqlalchemy import update

from service.db import Database
from service.models import Item, Job, Shard
from tests.fixtures import LiveService, inversion
from tests.web.test_dashboard import HOSTILE, SOON, page_with_failing_requests, row_of

pytestmark = pytest.mark.e2e

Still = tuple[LiveService, Database]


def submitted(still: Still, **beside: object) -> str:
    return str(still[0].submit(inversion(**beside))["id"])


def open_list(page: Page, still: Still, query: str = "") -> None:
    page.goto(f"{still[0].url}/ui/{query}")
    expect(page.locator(".loading")).to_have_count(0, timeout=SOON)


def rows(page: Page) -> Locator:
    return page.locator(".jobs tbody tr")


def shown(page: Page) -> list[str]:
    """The ids of the jobs that are listed."""
    return rows(page).locator(".c-job .id").all_text_contents()


def failed(still: Still) -> str:
    """A job whose items have failed."""
    job_id = submitted(still)
    error = {"title": "Not a number", "detail": "at step 3"}
    with still[1].transaction() as session:
        session.execute(update(Item).where(Item.job_id == job_id).values(state="failed", error=error))
        session.execute(update(Shard).where(Shard.job_id == job_id).values(state="done"))
        over = {"state": "failed", "finished_at": Job.created_at + 90, "counts": {"failed": 3}}
        session.execute(update(Job).where(Job.id == job_id).values(over))
    return job_id


def test_a_row_says_what_a_job_is_about_and_why_it_waits(still_service: Still, page: Page) -> None:
    labels = {"team": HOSTILE, "run": "7", "a": "1", "b": "2", "c": "3"}
    job_id = submitted(still_service, description=f"A first look {HOSTILE}", labels=labels)
    paused = submitted(still_service)
    still_service[0].client.pause(paused)
    open_list(page, still_service)
    row = row_of(page, job_id)
    expect(row.locator(".c-job > a")).to_have_text(f"A first look {HOSTILE}")
    expect(row.locator(".chip")).to_have_text(["a=1", "b=2", "c=3", "run=7"])
    expect(row.get_by_title(f"team={HOSTILE}")).to_have_text("+1")
    expect(row.locator(".reason")).to_have_text("no worker is alive")
    expect(row.locator(".pace")).to_have_text("0 %")
    expect(row_of(page, paused).locator(".c-state")).to_have_text("paused")
    expect(page.locator("img[src=x]")).to_have_count(0)
    over = failed(still_service)
    expect(row_of(page, over).locator(".reason")).to_have_text("3 failed", timeout=SOON)
    expect(row_of(page, over).locator(".pace")).to_have_text("took 1 min 30 s")
    still_service[0].client.delete(over)
    expect(row_of(page, over)).to_have_count(0, timeout=SOON)


def test_every_filter_lives_in_the_address(still_service: Still, page: Page) -> None:
    marked = submitted(still_service, description="Seen in Needle", labels={"team": "vision"})
    other = submitted(still_service, labels={"team": "speech"})
    with still_service[1].transaction() as session:
        session.execute(update(Job).where(Job.id == marked).values(created_at=1_000_000_000))  # 2001-09-09
    open_list(page, still_service)
    page.get_by_role("searchbox").press_sequentially("needle ")
    expect(rows(page)).to_have_count(1)
    expect(page).to_have_url(re.compile(r"\?text=needle$"))
    expect(page.get_by_role("searchbox")).to_have_value("needle ")
    page.get_by_role("searchbox").fill("")
    page.get_by_text("More filters").click()
    page.get_by_label("Created after").fill("2001-09-09")
    page.get_by_label("Created before").fill("2001-09-10")
    expect(page).to_have_url(re.compile(r"\?created_after=2001-09-09&created_before=2001-09-10$"))
    expect(rows(page)).to_have_count(1)
    assert shown(page) == [marked]
    page.get_by_label("Kind").select_option("training")
    expect(page.get_by_role("heading", name="No job matches")).to_be_visible(timeout=SOON)
    page.reload()
    expect(page.get_by_label("Kind")).to_have_value("training")
    expect(page.get_by_label("Created before")).to_have_value("2001-09-10")
    page.get_by_role("link", name="Show all jobs").click()
    row_of(page, other).get_by_role("link", name="team=speech").click()
    expect(page).to_have_url(re.compile(r"\?label=team%3Dspeech$"))
    expect(page.get_by_label("Label")).to_have_value("team=speech")
    expect(rows(page)).to_have_count(1)
    page.goto(f"{still_service[0].url}/ui/?state=paused&state=failed")
    expect(page.get_by_label("State").locator("option:checked")).to_have_text("paused or failed")


def test_a_filter_that_the_api_refuses_says_which(still_service: Still, page: Page) -> None:
    with page_with_failing_requests(page) as other:
        other.goto(f"{still_service[0].url}/ui/?label=%3Dx")
        expect(other.locator(".note")).to_contain_text("The list has no filter label “=x”", timeout=SOON)
        expect(rows(other).first).to_be_visible(timeout=SOON)
        other.goto(f"{still_service[0].url}/ui/?state=bogus&state=queued")
        expect(other.locator(".note")).to_contain_text("no filter state “bogus”", timeout=SOON)
        expect(other).to_have_url(re.compile(r"\?state=queued$"))
        expect(rows(other).first).to_be_visible(timeout=SOON)


def test_a_view_is_saved_chosen_and_removed(still_service: Still, page: Page) -> None:
    cancelled = submitted(still_service)
    still_service[0].client.cancel(cancelled)
    views = page.get_by_role("navigation", name="Views")
    open_list(page, still_service, "?state=cancelled")
    page.get_by_role("button", name="Save view").click()
    page.get_by_label("Name").fill("Given up")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(views.get_by_role("link", name="Given up")).to_have_attribute("aria-current", "true")
    page.evaluate("window.stayed = true")
    views.get_by_role("link", name="Active").click()
    expect(page).to_have_url(re.compile(r"\?state=active$"))
    expect(row_of(page, cancelled)).to_have_count(0)
    expect(rows(page).first).to_be_visible(timeout=SOON)
    assert page.evaluate("window.stayed")
    page.reload()
    views.get_by_role("link", name="Given up").click()
    expect(row_of(page, cancelled)).to_be_visible(timeout=SOON)
    page.get_by_role("button", name="Remove view").click()
    expect(views.get_by_role("link")).to_have_text(["All", "Active", "Failed"])
    expect(page.get_by_role("button", name="Save view")).to_be_focused()


def test_selected_jobs_are_cancelled_together_after_a_question(still_service: Still, page: Page) -> None:
    several = [submitted(still_service, labels={"set": "c"}) for _ in range(3)]
    open_list(page, still_service, "?label=set%3Dc")
    for job_id in several[:2]:
        page.get_by_role("checkbox", name=f"Select {job_id}").check()
    expect(page.get_by_role("checkbox", name="Select all jobs shown")).to_have_js_property("indeterminate", True)
    cancel = page.get_by_role("button", name="Cancel 2")
    cancel.click()
    page.get_by_role("button", name="Keep them running").click()
    assert {still_service[0].client.job(job_id)["state"] for job_id in several} == {"queued"}
    cancel.click()
    expect(page.get_by_role("heading", name="Cancel 2 jobs?")).to_be_visible()
    page.get_by_role("button", name="Cancel them").click()
    expect(page.get_by_role("region", name="Selected jobs")).to_be_hidden()
    states = {job_id: still_service[0].client.job(job_id)["state"] for job_id in several}
    assert states == dict(zip(several, ["cancelled", "cancelled", "queued"], strict=True))
    expect(rows(page).locator(".badge")).to_have_text(["queued", "cancelled", "cancelled"])


def test_selected_jobs_are_paused_resumed_and_retried(still_service: Still, page: Page) -> None:
    failed(still_service)
    with still_service[1].transaction() as session:
        session.execute(update(Job).where(Job.state != "failed").values(deleted_at=1.0))
    submitted(still_service)
    open_list(page, still_service)
    states = rows(page).locator(".badge")
    page.get_by_role("checkbox", name="Select all jobs shown").check()
    expect(page.get_by_role("button", name="Resume")).to_be_disabled()
    page.get_by_role("button", name="Pause 1").click()
    expect(states).to_have_text(["paused", "failed"])
    page.get_by_role("checkbox", name="Select all jobs shown").check()
    page.get_by_role("button", name="Resume 1").click()
    expect(states).to_have_text(["queued", "failed"])
    page.get_by_role("button", name="Retry 1").click()
    page.get_by_role("button", name="Retry them").click()
    expect(states).to_have_text(["queued", "queued"])


def test_what_is_refused_of_several_is_told(still_service: Still, page: Page) -> None:
    job_id = submitted(still_service)
    with page_with_failing_requests(page) as other:
        open_list(other, still_service)
        other.get_by_role("checkbox", name=f"Select {job_id}").check()
        still_service[0].client.delete(job_id, cancel=True)
        other.get_by_role("button", name="Pause 1").click()
        expect(other.locator(".note")).to_contain_text("0 of 1 job paused", timeout=SOON)
        expect(other.locator(".note")).to_contain_text(f"{job_id}: no job")


def test_the_list_is_worked_by_keys(still_service: Still, page: Page) -> None:
    first, second = submitted(still_service), submitted(still_service)
    open_list(page, still_service)
    page.keyboard.press("j")
    expect(row_of(page, second).locator(".c-job > a")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.get_by_role("checkbox", name=f"Select {first}")).to_be_checked()
    page.keyboard.press("k")
    expect(row_of(page, second).locator(".c-job > a")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("?jx")
    expect(page.get_by_role("searchbox")).to_have_value("?jx")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("searchbox").fill("")
    page.get_by_role("heading", name="Jobs").click()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_contain_text("Select the job")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard").click()
    page.get_by_role("button", name="Close").click()
    expect(rows(page).first).to_contain_text(second)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/ui/jobs/job_"))
    page.goto(f"{still_service[0].url}/ui/models")
    expect(page.get_by_role("table")).to_be_visible(timeout=SOON)
    page.keyboard.press("j")
    expect(page.get_by_role("table").get_by_role("link").first).to_be_focused()
    page.goto(f"{still_service[0].url}/ui/jobs/{first}")
    expect(page.get_by_role("button", name="#2")).to_be_visible(timeout=SOON)
    for key in "jjjk":
        page.keyboard.press(key)
    expect(page.get_by_role("button", name="#1")).to_be_focused()


def test_the_theme_is_kept_and_set_before_anything_is_drawn(still_service: Still, page: Page) -> None:
    at_first = """new MutationObserver(() => {
      if (document.body) window.atFirst ??= document.getElementById("dark").media;
    }).observe(document, { childList: true, subtree: true });"""
    page.add_init_script(at_first)
    page.emulate_media(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    open_list(page, still_service)
    light = page.evaluate(background)
    page.get_by_role("button", name="Theme: system").click()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == light
    page.get_by_role("button", name="Theme: light").click()
    page.emulate_media(color_scheme="light")
    dark = page.evaluate(background)
    assert dark != light
    for path in ("/ui/models", "/docs"):
        page.goto(still_service[0].url + path)
        assert (page.evaluate("atFirst"), page.evaluate(background)) == ("all", dark)
    page.get_by_role("button", name="Theme: dark").click()
    assert page.evaluate(background) == light


def test_a_device_that_is_offline_is_told_so_until_it_is_back(still_service: Still, page: Page) -> None:
    with page_with_failing_requests(page) as other:
        open_list(other, still_service)
        other.context.set_offline(True)
        expect(other.get_by_role("alert")).to_have_text("This device is offline. What is shown may be old")
        other.context.set_offline(False)
        expect(other.get_by_role("alert")).to_be_empty(timeout=SOON)


def test_the_list_fits_a_phone(still_service: Still, page: Page) -> None:
    long = "w" * 190
    job_id = submitted(still_service, description=long, labels={"k" * 60: long, "team": "vision"})
    page.set_viewport_size({"width": 360, "height": 780})
    open_list(page, still_service, "?label=team")
    page.get_by_role("checkbox", name=f"Select {job_id}").check()
    expect(page.get_by_role("button", name="Cancel 1")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("navigation", name="Main").get_by_role("link", name="API").click()
    expect(page).to_have_url(f"{still_service[0].url}/docs")
