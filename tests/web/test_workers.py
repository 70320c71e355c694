"""The page of workers in a real browser."""

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import update

from service import fleet, leases
from service.bulk_models import WorkerProcess
from service.db import Database
from tests.fixtures import LiveService, inversion
from tests.service.test_priorities import INFO
from tests.web.test_dashboard import LATE, SOON, row_of

pytestmark = pytest.mark.e2e


def test_workers_say_what_they_hold_and_how_busy_they_are(
    still_service: tuple[LiveService, Database], page: Page
) -> None:
    service, db = still_service
    first, second = (service.submit(inversion(steps=10))["id"] for _ in range(2))
    page.goto(f"{service.url}/ui/workers")
    expect(page.locator(".note[data-tone=bad]")).to_contain_text("No worker is alive, and jobs wait", timeout=SOON)
    with db.transaction() as session:
        busy = {"threads": 4, "busy": 0.5, "batch_rows": 3, "batch_limit": 32, "image_steps_per_second": 1200.0}
        fleet.announce(session, "gpu:1", INFO | busy)
        fleet.announce(session, "old:1", INFO | {"batch_limit": None})
        fleet.announce(session, "gone:1", INFO)
        fleet.end(session, "gone:1")
        session.execute(
            update(WorkerProcess).where(WorkerProcess.id == "old:1").values(seen_at=WorkerProcess.seen_at - 60)
        )
        leases.claim(session, f"{first}.0", "gpu:1:thread", 60)
    rows = page.get_by_role("table", name="Workers").locator("tbody tr")
    expect(rows.locator(".badge")).to_have_text(["alive", "ended", "silent"], timeout=SOON)
    expect(page.locator(".note")).to_have_count(0)
    alive = rows.first
    expect(alive).to_contain_text("1 of 4")
    expect(alive).to_contain_text("3 of 32 rows")
    expect(alive.get_by_role("progressbar", name="Device of gpu:1 busy")).to_have_js_property("value", 0.5)
    totals = page.locator(".totals div")
    expect(totals).to_have_text(
        ["Alive1 worker", "Shards held1 of 4", "Image-steps/s1,200", "In the queue1 shard", "To do there30 image-steps"]
    )
    alive.get_by_role("link", name=first).click()
    expect(page).to_have_url(f"{service.url}/ui/jobs/{first}")
    assert second


def test_the_embedded_worker_is_listed_and_rows_say_how_long_it_takes_and_show_results(
    live_service: LiveService, page: Page
) -> None:
    job = live_service.submit(inversion(steps=50_000))
    page.set_viewport_size({"width": 360, "height": 780})
    page.goto(f"{live_service.url}/ui/workers")
    expect(page.get_by_role("link", name=job["id"])).to_be_visible(timeout=LATE)
    expect(page.get_by_role("table", name="Workers").locator(".badge")).to_have_text("alive")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="Jobs").click()
    expect(row_of(page, job["id"]).locator(".pace")).to_contain_text(" left", timeout=LATE)
    live_service.client.cancel(job["id"])
    done = live_service.submit(inversion())
    pictures = row_of(page, done["id"]).locator(".thumbs img")
    expect(pictures).to_have_count(3, timeout=LATE)
    for picture in pictures.all():
        expect(picture).to_have_js_property("naturalWidth", 32)
