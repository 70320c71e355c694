"""What a job's page tells beside its items, and what can be done there, in a real browser."""

import json
import re
import subprocess
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect
from sqlalchemy import create_engine, null, update

from service.models import Job
from service.settings import Settings
from tests.fixtures import LiveService, inversion, live
from tests.web.test_dashboard import HOSTILE, SOON, changed, expect_state, open_job, page_with_failing_requests
from tests.web.test_lifecycle import failed_job

pytestmark = pytest.mark.e2e

QUICK = inversion(steps=7)
LONG = inversion(steps=50_000)
SENT = QUICK | {
    "description": f"It's {HOSTILE}",
    "labels": {"team": "vision"},
    "metadata": {"odd": 'it\'s "so"\n$HOME `x` \\', "none": True},
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("job-page")
    return Settings(data_dir=folder / "data", port=0, heartbeat_seconds=0.2, lease_seconds=60, reconcile_seconds=0.5)


@pytest.fixture(scope="module")
def live_service(settings: Settings) -> Iterator[LiveService]:
    """One for all tests of this file."""
    with live(settings) as service:
        yield service


@pytest.fixture
def refused_page(page: Page) -> Iterator[Page]:
    """A page for what the API refuses, which the browser logs."""
    with page_with_failing_requests(page) as other:
        yield other


def tab(page: Page, name: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("tab", name=name)


def row(page: Page, name: str) -> Locator:
    return page.locator("[data-ref=parameters] tr").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def copied(page: Page, choice: str) -> str:
    page.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("button", name=choice).click()
    expect(page.locator("#announcer")).to_have_text(f"the request as {choice.split()[-1]} copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_a_request_is_copied_as_commands_that_make_the_same_job(live_service: LiveService, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    job = live_service.submit(SENT)
    open_job(page, live_service, job["id"])
    made = json.loads(subprocess.run(copied(page, "Copy as curl"), shell=True, check=True, capture_output=True).stdout)
    known: dict[str, Any] = {}
    exec(copied(page, "Copy as Python"), known)
    for other in (made, known["job"]):
        same = ("parameters", "description", "labels", "metadata")
        assert [other[name] for name in same] == [job[name] for name in same]
        assert other["id"] != job["id"]


def test_a_job_is_cloned_in_the_form_and_says_what_is_not_as_usual(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(QUICK)
    open_job(page, live_service, job["id"])
    page.get_by_role("button", name="Clone", exact=True).click()
    text = page.get_by_role("textbox", name="The request")
    expect(text).to_be_visible(timeout=SOON)
    request = json.loads(text.input_value())
    assert request == QUICK
    text.fill(json.dumps(request | {"steps": 9, "restarts": 2}))
    page.get_by_role("button", name="Submit").click()
    about = page.get_by_role("region", name="About")
    expect(about.get_by_role("link", name=job["id"])).to_be_visible(timeout=SOON)
    expect(row(page, "steps").get_by_role("cell")).to_have_text("9else 300")
    expect(row(page, "restarts").get_by_role("cell")).to_have_text("2else 1")
    expect(row(page, "eps").get_by_role("cell")).to_have_text("1000")
    clone = live_service.client.job(page.url.rsplit("/", 1)[1])
    assert (clone["cloned_from"], clone["parameters"]["steps"]) == (job["id"], 9)


def test_a_registration_is_cloned_by_its_request_under_a_dialog(live_service: LiveService, refused_page: Page) -> None:
    page = refused_page
    sent = {"name": "again", "format": "image_folder", "root": "bucket", "path": "imports/again"}
    job = live_service.client.json("POST", "/v1/datasets", json=sent)
    open_job(page, live_service, job["id"])
    page.get_by_role("button", name="Clone", exact=True).click()
    dialog = page.get_by_role("dialog", name="Clone with edits")
    text = dialog.get_by_role("textbox")
    request = json.loads(text.input_value())
    for wrong, said in (("{", "This is no request"), (json.dumps(request | {"name": 1}), "name")):
        text.fill(wrong)
        dialog.get_by_role("button", name="Submit the clone").click()
        expect(dialog.get_by_role("status")).to_contain_text(said)


def test_a_job_from_before_requests_were_kept_has_its_page(
    live_service: LiveService, settings: Settings, refused_page: Page
) -> None:
    job = live_service.submit(QUICK)
    live_service.wait(job["id"])
    engine = create_engine(settings.database)
    with engine.begin() as connection:
        connection.execute(update(Job).where(Job.id == job["id"]).values(request=null()))
    engine.dispose()
    with refused_page.expect_response("**/request") as answer:
        open_job(refused_page, live_service, job["id"])
    assert answer.value.status == 409
    expect(row(refused_page, "steps").get_by_role("cell")).to_have_text("7", timeout=SOON)
    expect(refused_page.locator(".card")).to_have_count(3)
    for name in ("Clone", "Copy"):
        expect(refused_page.get_by_role("button", name=name, exact=True)).to_be_hidden()
    refused_page.goto(f"{live_service.url}/ui/new?clone={job['id']}")
    expect(refused_page.locator("main > .note")).to_contain_text("is from before requests were kept", timeout=SOON)
    expect(refused_page.get_by_role("button", name="Submit")).to_be_visible()


def test_a_job_is_described_and_deleted_after_a_question(live_service: LiveService, refused_page: Page) -> None:
    page = refused_page
    job = live_service.submit(SENT)
    live_service.wait(job["id"])
    open_job(page, live_service, job["id"])
    about = page.get_by_role("region", name="About")
    expect(about).to_contain_text(HOSTILE)
    about.get_by_role("button", name="Edit").click()
    dialog = page.get_by_role("dialog", name="Edit the job")
    dialog.get_by_label("Labels").fill("team=vision=2\ndraft\n-x=1")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog.get_by_role("alert")).to_contain_text("labels.-x")
    dialog.get_by_label("Labels").fill("team=vision=2\ndraft")
    dialog.get_by_label("Description").fill("")
    dialog.get_by_label("Metadata").fill('{"run": {"seed": 3}}')
    dialog.get_by_label("Priority").select_option("high")
    dialog.get_by_label("Deleted").fill("1.5")
    expect(dialog.get_by_label("Deleted").locator("..")).to_contain_text(re.compile(r"Deleted \d{4}-.* UTC"))
    dialog.get_by_role("button", name="Save").click()
    expect(about).to_contain_text("High priority")
    expect(about).to_contain_text(re.compile(r"Deleted \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"))
    expect(about.get_by_role("table", name="Metadata")).to_have_text("run.seed3")
    changed = live_service.client.job(job["id"])
    assert (changed["description"], changed["priority"], changed["retention_seconds"]) == (None, "high", 129_600)
    assert (changed["labels"], changed["metadata"]) == ({"team": "vision=2", "draft": ""}, {"run": {"seed": 3}})
    label = about.get_by_role("link", name="team=vision=2")
    expect(label).to_have_attribute("href", "/ui/?label=team%3Dvision%3D2")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete the job").click()
    expect(page).to_have_url(f"{live_service.url}/ui/")
    assert job["id"] not in [each["id"] for each in live_service.client.jobs()]


def test_a_running_job_tells_who_computes_it_and_what_happened(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(LONG)
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}?tab=workers")
    shards = page.get_by_role("table", name="Shards and who computes them").locator("tbody tr")
    expect(shards).to_have_count(1, timeout=SOON)
    expect(shards).to_contain_text(re.compile(r"#0items 0 to 2running.*(ago|now)lease for .*1 claim"))
    steps = shards.get_by_role("cell").nth(3)
    before = steps.inner_text()
    shards.get_by_role("link").focus()
    expect(steps).not_to_have_text(before, timeout=SOON)
    expect(shards.get_by_role("link")).to_be_focused()
    page.get_by_role("button", name="Pause").click()
    expect_state(page, "paused")
    expect(page.locator("[data-ref=standing]")).to_have_text("Waiting: until it is resumed")
    expect(page.get_by_text("No worker computes any of it now.")).to_be_visible(timeout=SOON)
    tab(page, "Workers").press("ArrowRight")
    expect(tab(page, "Log")).to_be_focused()
    expect(page).to_have_url(re.compile(r"\?tab=log$"))
    lines = page.get_by_role("table", name="What happened, newest first").locator("tbody tr")
    expect(lines.last).to_contain_text(re.compile(r"claimed.*#0claim 1"), timeout=SOON)
    told = live_service.client.request("GET", job["links"]["self"] + "/logs").json()["logs"]
    expect(lines.locator(".event")).to_have_text([line["event"].replace("_", " ") for line in told])
    page.get_by_label("Level").select_option("error")
    expect(page.get_by_text("Nothing to tell yet.")).to_be_visible()
    expect(page.locator(".timeline li.attempt").first).to_contain_text("claimed")


def test_a_job_is_called_by_its_description_and_says_when_its_worker_is_silent(
    live_service: LiveService, page: Page
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    job = live_service.submit(LONG)
    silent = changed(lambda body: body.update(state="running", heartbeat_at="2001-09-09T00:00:00Z"))
    page.route(f"**/v1/jobs/{job['id']}", silent)
    open_job(page, live_service, job["id"])
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text(f"inversion · cifar10-robust · {job['id'][-6:]}")
    expect(page.locator("[data-ref=standing]")).to_contain_text("No sign of life for ", timeout=SOON)
    page.get_by_title("Copy the id").click()
    expect(page.locator("#announcer")).to_have_text("the id copied")
    assert page.evaluate("navigator.clipboard.readText()") == job["id"]
    page.unroute(f"**/v1/jobs/{job['id']}")
    live_service.client.json("PATCH", f"/v1/jobs/{job['id']}", json={"description": f"First {HOSTILE}"})
    expect(title).to_have_text(f"First {HOSTILE}", timeout=SOON)
    expect(page.locator("[data-ref=standing]")).to_be_hidden()
    live_service.client.cancel(job["id"])


def test_failures_are_told_by_cause_and_lead_to_their_items(
    live_service: LiveService, settings: Settings, page: Page
) -> None:
    job, _ = failed_job(live_service, settings)
    open_job(page, live_service, job["id"])
    tab(page, "1 failure").click()
    cause = page.get_by_role("table", name="1 failed item by cause").locator("tbody tr")
    [told] = live_service.client.request("GET", job["links"]["self"] + "/failures").json()["failures"]
    expect(cause.get_by_role("rowheader")).to_have_text(told["title"] + told["detail"], timeout=SOON)
    all_of_it = cause.get_by_role("link", name="show them").get_attribute("href")
    assert all_of_it is not None
    assert all_of_it.startswith(f"/ui/jobs/{job['id']}?state=failed&error=")
    cause.get_by_role("link", name="#1").click()
    expect(page).to_have_url(f"{live_service.url}/ui/jobs/{job['id']}#item-1")
    expect(tab(page, "Items")).to_have_attribute("aria-selected", "true", timeout=SOON)


def test_causes_come_though_the_first_request_for_them_fails_and_one_may_have_no_title(
    live_service: LiveService, settings: Settings, refused_page: Page
) -> None:
    page = refused_page
    job, _ = failed_job(live_service, settings)
    page.route("**/failures", changed(lambda body: body["failures"][0].update(title=None)))
    page.route("**/failures", lambda route: route.abort(), times=1)
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}?tab=failures")
    cause = page.get_by_role("table", name="1 failed item by cause").locator("tbody tr")
    expect(cause.get_by_role("rowheader")).to_contain_text("no title", timeout=SOON)
    link = cause.get_by_role("link", name="show them")
    expect(link).to_have_attribute("href", f"/ui/jobs/{job['id']}?state=failed")


def test_more_lines_of_a_log_that_come_after_another_choice_are_not_shown(
    live_service: LiveService, page: Page
) -> None:
    job = live_service.submit(QUICK)
    live_service.wait(job["id"])
    late: list[Route] = []
    page.route(re.compile(r"/logs\?limit=100$"), changed(lambda body: body.update(next_cursor="more")))
    page.route("**/logs?*cursor=*", lambda route: late.append(route))
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}?tab=log")
    page.get_by_role("button", name="Load more lines").click()
    page.get_by_label("Level").select_option("error")
    expect(page.get_by_text("Nothing to tell yet.")).to_be_visible(timeout=SOON)
    with page.expect_response("**/logs?*cursor=*"):
        late[0].fulfill(json=live_service.client.json("GET", f"/v1/jobs/{job['id']}/logs"))
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 50))")
    expect(page.get_by_text("Nothing to tell yet.")).to_be_visible()


def test_curves_of_chosen_items_lie_over_each_other(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(QUICK)
    live_service.wait(job["id"])
    open_job(page, live_service, job["id"])
    tab(page, "Curves").click()
    panel = page.get_by_role("tabpanel", name="Curves")
    keys = panel.locator(".key")
    expect(keys).to_have_text([re.compile(f"^#{i} ") for i in range(3)], timeout=SOON)
    tab(page, "Items").click()
    page.get_by_role("checkbox", name="Choose item 1").check()
    page.get_by_role("checkbox", name="Choose item 2").check()
    tab(page, "Curves").click()
    expect(keys).to_have_text([re.compile("^#1 "), re.compile("^#2 ")], timeout=SOON)
    panel.get_by_role("button", name="Greatest distance").click()
    items = live_service.client.items(job)
    worst = sorted(items, key=lambda item: -item["metrics"]["relative_distance"])
    expect(keys).to_have_text([re.compile(f"^#{item['index']} ") for item in worst])
    panel.get_by_label("Items").fill("0, 2")
    panel.get_by_role("button", name="Show").click()
    expect(keys).to_have_text([re.compile("^#0 "), re.compile("^#2 ")])
    page.evaluate("document.querySelector('[role=tabpanel] .chart').kept = true")
    panel.get_by_label("Quantity").focus()
    panel.get_by_label("Quantity").select_option("loss")
    expect(panel.locator(".chart-title")).to_have_text("Loss")
    expect(panel.get_by_role("slider", name="Loss")).to_be_visible()
    expect(panel.get_by_label("Quantity")).to_be_focused()
    assert panel.locator(".chart").evaluate("chart => chart.kept")
    page.reload()
    expect(keys).to_have_text([re.compile("^#0 "), re.compile("^#2 ")], timeout=SOON)
    panel.get_by_label("Items").fill("0-99")
    panel.get_by_role("button", name="Show").click()
    expect(panel.get_by_role("status").first).to_contain_text("1 to 8 items")


def test_a_job_is_downloaded_whole_and_a_phone_has_its_facts_in_a_tab(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(QUICK)
    live_service.wait(job["id"])
    page.set_viewport_size({"width": 360, "height": 780})
    open_job(page, live_service, job["id"])
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
        page.get_by_role("link", name="All files, zip").click()
    assert "items/0000002/result.png" in zipfile.ZipFile(download.value.path()).namelist()
    facts = page.locator(".facts")
    expect(facts).to_be_hidden()
    for name in ("Items", "Curves", "Workers", "Log", "About"):
        tab(page, name).click()
        expect(tab(page, name)).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(facts).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 780})
    expect(tab(page, "Items")).to_have_attribute("aria-selected", "true")
    expect(tab(page, "About")).to_be_hidden()
    expect(facts).to_be_visible()
