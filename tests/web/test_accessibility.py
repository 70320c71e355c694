"""Every page, light and dark and on a phone, as axe sees it: nothing that shuts anybody out."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.fixtures import LiveService
from tests.web.test_dashboard import HOSTILE, LONG, SHORT, SOON

pytestmark = pytest.mark.e2e

ALL = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
SEEN = {"type": "rule", "values": ["color-contrast", "target-size", "link-in-text-block"]}
"""What a theme or a small screen can change."""
Jobs = dict[str, str]


@pytest.fixture
def jobs(live_service: LiveService) -> Jobs:
    """One that is over, one that failed in part, one that is computed, and a recipe."""
    described = {"description": HOSTILE, "labels": {"team": HOSTILE}, "metadata": {"note": HOSTILE}}
    done = live_service.submit(SHORT | described)["id"]
    twin = live_service.submit(SHORT | {"model": "cifar10-standard"})["id"]
    networks: dict[str, Any] = {
        "model": "cifar10-robust",
        "baseline": "cifar10-standard",
        "preset": "cifar",
        "steps": 10,
    }
    recipe = live_service.client.recipe("figure-5", **networks, images=SHORT["targets"])["id"]
    for each in (done, twin, recipe):
        live_service.wait(each)
    return {"done": done, "twin": twin, "recipe": recipe, "running": live_service.submit(LONG)["id"]}


PAGES: dict[str, Callable[[Jobs], str]] = {
    "jobs": lambda _: "/ui/",
    "no job": lambda _: "/ui/?state=expired",
    "a job": lambda jobs: f"/ui/jobs/{jobs['done']}#item-1",
    "a running job": lambda jobs: f"/ui/jobs/{jobs['running']}",
    "a recipe": lambda jobs: f"/ui/jobs/{jobs['recipe']}",
    "no such job": lambda _: "/ui/jobs/job_none",
    "models": lambda _: "/ui/models",
    "a model": lambda _: "/ui/models/cifar10-robust",
    "data sets": lambda _: "/ui/datasets",
    "a data set": lambda _: "/ui/datasets/cifar10-sample",
    "failed items": lambda _: "/ui/failed",
    "workers": lambda _: "/ui/workers",
    "a new job": lambda _: "/ui/new",
    "a clone": lambda jobs: f"/ui/new?clone={jobs['done']}",
    "two jobs": lambda jobs: f"/ui/compare?a={jobs['done']}&b={jobs['twin']}",
    "no page": lambda _: "/ui/nowhere",
}


def found(page: Page, rules: dict[str, Any]) -> list[str]:
    """What axe objects to, a line each."""
    answer: dict[str, Any] = Axe().run(page, options={"runOnly": rules}).response
    return [f"{each['id']}: {node['html']}" for each in answer["violations"] for node in each["nodes"]]


def settled(page: Page) -> None:
    expect(page.get_by_role("heading", level=1).first).to_be_visible(timeout=SOON)
    expect(page.locator("#main .loading:visible")).to_have_count(0, timeout=SOON)


@pytest.mark.slow
def test_no_page_shuts_anybody_out(live_service: LiveService, jobs: Jobs, browser: Browser) -> None:
    objections: dict[str, list[str]] = {}
    shown: list[tuple[Literal["light", "dark"], int]] = [("light", 1280), ("dark", 360)]
    for scheme, width in shown:
        page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
        for name, path in PAGES.items():
            page.goto(live_service.url + path(jobs))
            settled(page)
            if lines := found(page, ALL if scheme == "light" else SEEN):
                objections[f"{name}, {scheme}, {width} px wide"] = lines
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                objections[f"{name} is too wide for a screen of {width} px"] = [str(wide)]
        page.close()
    assert objections == {}
