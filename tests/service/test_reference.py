"""The reference: everything in it, made from the schema, readable without any other server."""

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Page

from service.reference.markdown import anchor, reference
from service.reference.page import page as rendered
from service.reference.schema import operations
from tests import compatibility
from tests.fixtures import LiveService

SCHEMA = compatibility.present()
HTML = rendered(SCHEMA)


def test_the_file_is_up_to_date() -> None:
    assert Path("docs/reference.md").read_text() == reference(SCHEMA), "run `make reference`, and commit the file"


def test_every_operation_and_object_has_its_section_and_every_link_leads_to_one() -> None:
    sections = re.findall(r'<a id="([^"]+)"', HTML)
    names = [operation["operationId"] for _, _, operation in operations(SCHEMA)] + list(SCHEMA["components"]["schemas"])
    assert sorted(sections) == sorted(map(anchor, names))
    assert set(re.findall(r'href="#([^"]+)"', HTML)) <= {*sections, "main"}


def test_every_field_parameter_and_bound_is_in_it() -> None:
    text = reference(SCHEMA)
    for schema in SCHEMA["components"]["schemas"].values():
        assert all(f"`{field}`" in text for field in schema.get("properties", ()))
    for _, _, operation in operations(SCHEMA):
        assert all(f"`{p['name']}`" in text for p in operation.get("parameters", ()))
    assert "| `steps` | integer, at least 1, at most 100000 or null |" in text


def test_the_page_needs_no_other_server_and_no_script_of_its_own(api: TestClient) -> None:
    answer = api.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.text == HTML
    assert "unsafe" not in answer.headers["content-security-policy"]
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', HTML)
    assert loaded
    assert all(api.get(address).status_code == 200 for address in loaded if address.startswith("/"))
    assert [address for address in loaded if not address.startswith("/")] == []
    assert re.findall(r"<style|<script(?!(?: type=\"module\")? src=)|style=|onclick", HTML) == []


@pytest.mark.e2e
def test_a_search_leaves_what_has_every_word(live_service: LiveService, page: Page) -> None:
    page.goto(f"{live_service.url}/docs")
    entries = page.locator(".entry")
    all_of_them = entries.count()
    page.keyboard.press("/")
    page.keyboard.type("webp 413")
    visible = page.locator(".entry:visible h3")
    assert visible.all_text_contents() == ["Upload image"]
    assert page.locator(".sections li:visible").all_text_contents() == ["post Upload image"]
    assert page.locator("#found").text_content() == f"1 of {all_of_them} sections"
    page.fill("#search", "no such word")
    assert visible.count() == 0
    page.fill("#search", "")
    assert visible.count() == all_of_them
