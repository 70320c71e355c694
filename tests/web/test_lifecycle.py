"""Pausing, resuming and retrying on the dashboard, deadlines, and the page of what failed."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import create_engine, update

from service.models import Item
from service.settings import Settings
from tests.fixtures import LiveService, inversion
from tests.service.test_images import encode, noise
from tests.web.test_dashboard import LATE, SOON, expect_state, open_job

pytestmark = pytest.mark.e2e

LONG = inversion(steps=50_000)


def failed_job(service: LiveService, settings: Settings) -> tuple[dict[str, Any], Path]:
    """A job whose second item failed because its image is not where it was, and where that was."""
    image = service.client.upload(encode(noise(size=(32, 32))))
    lost = settings.data_dir / "objects" / "images" / image.removeprefix("sha256:")
    lost.rename(f"{lost}.away")
    first = {"source": "dataset", "dataset": "cifar10-sample", "indices": [0]}
    mixed = {"source": "mixed", "parts": [first, {"source": "images", "images": [image]}]}
    job = service.wait(service.submit(inversion(targets=mixed))["id"])
    assert job["state"] == "partially_succeeded"
    return job, lost


def test_a_job_is_paused_and_resumed(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG)
    open_job(page, live_service, job["id"])
    buttons = {name: page.get_by_role("button", name=name) for name in ("Pause", "Resume", "Retry failed")}
    expect(buttons["Resume"]).to_be_hidden()
    buttons["Pause"].click()
    expect_state(page, "paused")
    expect(buttons["Pause"]).to_be_hidden()
    buttons["Resume"].click()
    expect(page.locator(".title-row .badge")).to_have_text(re.compile("queued|running"), timeout=SOON)
    expect(buttons["Pause"]).to_be_visible()
    expect(buttons["Retry failed"]).to_be_hidden()
    live_service.client.cancel(job["id"])
    expect_state(page, "cancelled")
    expect(buttons["Pause"]).to_be_hidden()


def test_a_deadline_stands_among_the_facts(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG | {"deadline": "2099-12-31T23:30:00+02:00"})
    open_job(page, live_service, job["id"])
    expect(page.locator("[data-ref=deadline]")).to_have_text(
        re.compile(r"^Deadline 2099-12-31 21:30:00 UTC, \d+ d \d+ h left$")
    )
    live_service.client.cancel(job["id"])
    expect_state(page, "cancelled")
    expect(page.locator("[data-ref=deadline]")).to_have_text("Deadline 2099-12-31 21:30:00 UTC")


def test_what_failed_is_retried_from_its_job_after_a_question(
    live_service: LiveService, settings: Settings, page: Page
) -> None:
    job, lost = failed_job(live_service, settings)
    open_job(page, live_service, job["id"])
    retry = page.get_by_role("button", name="Retry failed")
    retry.click()
    page.get_by_role("button", name="Leave them").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert live_service.client.job(job["id"])["state"] == "partially_succeeded"
    Path(f"{lost}.away").rename(lost)
    retry.click()
    page.get_by_role("button", name="Retry them").click()
    expect_state(page, "succeeded")
    expect(page.locator(".card img")).to_have_count(6, timeout=SOON)
    expect(retry).to_be_hidden()


def test_the_failed_items_of_all_jobs_are_listed_and_retried(
    live_service: LiveService, settings: Settings, page: Page
) -> None:
    job, lost = failed_job(live_service, settings)
    page.goto(f"{live_service.url}/ui/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Failed", exact=True).click()
    table = page.get_by_role("table", name=f"Failed items of {job['id']}")
    (letter,) = live_service.client.dead_letters()
    expect(table.get_by_role("cell").first).to_contain_text(letter["error"]["title"], timeout=SOON)
    link = table.get_by_role("link", name="#1")
    assert link.get_attribute("href") == f"/ui/jobs/{job['id']}#item-1"
    Path(f"{lost}.away").rename(lost)
    page.get_by_role("button", name="Retry failed").click()
    page.get_by_role("button", name="Retry them").click()
    expect(page.get_by_text("Nothing has failed.")).to_be_visible(timeout=SOON)
    assert live_service.wait(job["id"], LATE / 1000)["state"] == "succeeded"


def test_more_failed_items_are_loaded_and_a_stopped_job_cannot_be_retried(
    live_service: LiveService, settings: Settings, page: Page
) -> None:
    targets = {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(120))}
    job = live_service.submit(LONG | {"targets": targets})
    live_service.client.cancel(job["id"])
    live_service.wait(job["id"])
    engine = create_engine(settings.database)
    with engine.begin() as connection:
        failed = {"state": "failed", "error": {"title": "<b>odd</b>", "detail": "why"}, "finished_at": 1.5}
        connection.execute(update(Item).values(failed))
    engine.dispose()
    page.goto(f"{live_service.url}/ui/failed")
    rows = page.get_by_role("row").filter(has_text="<b>odd</b>")
    expect(rows).to_have_count(100, timeout=SOON)
    expect(rows.first).to_contain_text("#119")
    page.get_by_role("button", name="Load more").click()
    expect(rows).to_have_count(120)
    expect(page.get_by_role("button", name="Load more")).to_be_hidden()
    expect(page.get_by_role("button", name="Retry failed")).to_be_hidden()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_what_failed_does_not_scroll_sideways(
    live_service: LiveService, settings: Settings, page: Page, width: int
) -> None:
    job, _ = failed_job(live_service, settings)
    page.set_viewport_size({"width": width, "height": 844})
    for path in ("/ui/failed", f"/ui/jobs/{job['id']}"):
        page.goto(live_service.url + path)
        expect(page.get_by_role("button", name="Retry failed")).to_be_visible(timeout=SOON)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
