"""Signing in and out in a real browser."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.access import first
from service.app import create_app, open_context
from service.client import Client
from service.server import Server, config
from service.serving import running
from service.settings import Settings
from tests.fixtures import inversion, migrated
from tests.web.test_dashboard import SOON, page_with_failing_requests, row_of

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Settings, str, Any]]:
    """A service that asks for keys: its address, its settings, its key, and a job."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("guarded"), port=0, auth="on")
    (settings.data_dir / "robustreps.db").write_bytes(migrated())
    context = open_context(settings)
    key = first.first_key(context.db, settings).read_text()
    server = Server(config(settings, create_app(settings, context)))
    with running(server) as url, Client(url, 240, key=key) as client:
        yield url, settings, key, client.submit(**inversion())["id"]
    context.close()


def test_who_is_not_signed_in_is_sent_to_do_so_and_then_back(
    guarded: tuple[str, Settings, str, str], page: Page
) -> None:
    url, _, key, job_id = guarded
    with page_with_failing_requests(page) as other:
        other.goto(f"{url}/ui/jobs/{job_id}?tab=logs")
        expect(other.get_by_role("heading", name="Sign in")).to_be_visible(timeout=SOON)
        other.get_by_role("textbox", name="Key").fill("rr_wrong")
        other.get_by_role("button", name="Sign in").click()
        expect(other.locator(".note[data-tone=bad]")).to_contain_text("opens nothing", timeout=SOON)
        other.get_by_role("textbox", name="Key").fill(key)
        other.get_by_role("button", name="Sign in").click()
        other.wait_for_url(f"{url}/ui/jobs/{job_id}?tab=logs")
        expect(other.get_by_title("Copy the id")).to_have_text(job_id, timeout=SOON)
        assert key not in other.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
        other.get_by_role("button", name="Cancel").click()  # changes something: the page has the header for it
        other.get_by_role("dialog").get_by_role("button", name=re.compile("^Cancel")).click()
        expect(other.locator(".title-row .badge")).to_have_text("cancelled", timeout=SOON)
        other.get_by_role("button", name="Sign out").click()
        expect(other.get_by_role("heading", name="Sign in")).to_be_visible(timeout=SOON)
        other.goto(f"{url}/ui/")
        other.wait_for_url(f"{url}/ui/login?next=%2Fui%2F")


def test_the_link_that_serve_prints_signs_in_once_and_leaves_the_address(
    guarded: tuple[str, Settings, str, str], page: Page
) -> None:
    url, settings, _, job_id = guarded
    link = f"{url}/ui/#token={first.link(settings)}"
    page.goto(link)
    expect(row_of(page, job_id)).to_be_visible(timeout=SOON)
    assert page.url == f"{url}/ui/"
    with page_with_failing_requests(page) as other:
        other.goto(link)
        expect(other.get_by_role("heading", name="Not signed in")).to_be_visible(timeout=SOON)


@pytest.mark.parametrize(
    "there", ["https://example.com/", "//example.com", "/ui/\\\\example.com", "javascript:alert(1)"]
)
def test_signing_in_leads_to_no_other_site(guarded: tuple[str, Settings, str, str], page: Page, there: str) -> None:
    url, _, key, _ = guarded
    page.goto(f"{url}/ui/login?next={there}")
    page.get_by_role("textbox", name="Key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(f"{url}/ui/")
