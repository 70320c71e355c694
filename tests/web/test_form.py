"""The form of a new job in a real browser: every kind of it, its pictures, its checks, and what it sends."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from service.db import Database
from service.reference.requests import JOBS, RECIPES
from tests.fixtures import LiveService
from tests.service.test_images import encode, noise
from tests.web.test_dashboard import HOSTILE, SOON, page_with_failing_requests

pytestmark = pytest.mark.e2e

Still = tuple[LiveService, Database]


def open_form(page: Page, still: Still, query: str = "") -> None:
    page.goto(f"{still[0].url}/ui/new{query}")
    expect_taken(page)


def expect_taken(page: Page) -> None:
    """The service has answered what the request would become."""
    expect(page.locator(".estimate:not(.stale) table tr")).to_have_count(5, timeout=SOON)


def request(page: Page) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(page.get_by_role("textbox", name="The request").input_value())
    return body


def estimated(page: Page, row: str) -> Locator:
    return page.locator(".estimate").get_by_role("row", name=row).locator("td")


def submitted(page: Page, still: Still) -> dict[str, Any]:
    """Submit, and follow to the job."""
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("/ui/jobs/job_"), timeout=SOON)
    return still[0].client.job(page.url.rsplit("/", 1)[1])


def problem(page: Page, field: str) -> Locator:
    return page.locator(f'[data-field="{field}"] > .problem')


def test_it_opens_on_a_request_with_pictures_and_usual_values_that_can_be_sent(
    still_service: Still, page: Page
) -> None:
    open_form(page, still_service)
    assert [request(page)[name] for name in ("kind", "model", "preset")] == ["inversion", "cifar10-robust", "cifar"]
    expect(estimated(page, "Items")).to_have_text("8")
    expect(estimated(page, "Image-steps")).to_have_text("2,400")
    expect(estimated(page, "Begins")).to_have_text("once there is a worker")
    expect(page.locator(".estimate .hint").filter(has_text="the preset cifar is not the paper's")).to_be_visible()
    steps = page.get_by_label("Steps", exact=True)
    expect(steps).to_have_attribute("placeholder", "300")
    expect(page.get_by_label("Source of start")).to_have_text(re.compile("^Noise \\(as usual\\)"))
    pictures = page.get_by_role("group", name="Targets").locator("img")
    expect(pictures).to_have_count(8)
    for picture in pictures.all():
        expect(picture).to_have_js_property("naturalWidth", 32)
    steps.fill("7")
    expect(estimated(page, "Image-steps")).to_have_text("56", timeout=SOON)
    page.reload()
    expect(steps).to_have_value("7", timeout=SOON)  # what was filled in is kept
    job = submitted(page, still_service)
    assert (job["parameters"]["steps"], job["items"]["total"]) == (7, 8)


def test_every_kind_and_recipe_opens_on_a_request_that_is_taken(still_service: Still, page: Page) -> None:
    open_form(page, still_service)
    kind = page.get_by_label("Kind")
    cards = still_service[0].client.request("GET", "/v1/recipes").json()
    recipes = {card["request"]: card["name"] for card in cards}  # one of each form
    kinds = kind.locator("option").evaluate_all("options => options.map(option => option.value)")
    assert len(kinds) == 8 + len(cards)
    for value in [*kinds[1:8], *recipes.values()]:
        kind.select_option(value)
        expect_taken(page)
        assert request(page).get("kind", value) == value


def test_what_is_wrong_is_said_at_its_field_by_the_schema_and_by_the_service(still_service: Still, page: Page) -> None:
    with page_with_failing_requests(page) as page:
        open_form(page, still_service)
        steps, restarts, indices = (page.get_by_label(name, exact=True) for name in ("Steps", "Restarts", "Indices"))
        steps.fill("0")
        expect(problem(page, "steps")).to_have_text("is 0; allowed: at least 1")
        expect(steps).to_have_attribute("aria-invalid", "true")
        steps.fill("few")
        expect(problem(page, "steps")).to_have_text(re.compile("is few; allowed: a whole number"))
        page.get_by_role("button", name="Submit").click()
        expect(steps).to_be_focused()
        steps.fill("")
        expect_taken(page)
        expect(problem(page, "steps")).to_be_empty()
        indices.fill("0-3, 500")
        expect(problem(page, "targets.indices")).to_have_text("4 is 500; allowed: 0 to 399", timeout=SOON)
        indices.fill("0")
        expect(restarts).to_be_hidden()
        page.get_by_role("textbox", name="The request").fill(json.dumps(request(page) | {"restarts": 99}))
        expect(restarts).to_be_visible()  # what is wrong is not left folded
        expect(problem(page, "restarts")).to_have_text("is 99; allowed: at most 64")
        page.get_by_role("button", name="Restarts").click()
        expect(restarts).to_be_focused()


def test_images_are_chosen_by_their_pictures_and_drawn_ones_are_shown(still_service: Still, page: Page) -> None:
    open_form(page, still_service)
    targets = page.get_by_role("group", name="Targets")
    targets.get_by_text("Choose from the pictures").click()
    targets.get_by_role("button", name="Image 33", exact=True).click()
    assert request(page)["targets"]["indices"] == [*range(8), 33]
    targets.get_by_role("button", name="Remove #0").click()
    expect(targets.get_by_role("button", name="Image 0", exact=True)).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_label("Indices")).to_have_value("1-7, 33")
    targets.get_by_role("button", name="More pictures").click()
    expect(targets.get_by_role("button", name="Image 119", exact=True)).to_be_attached()
    targets.get_by_role("button", name="Take all, or a range").click()
    targets.get_by_text("Only some of them").click()
    targets.get_by_label("Classes").fill("cat\ndog")
    targets.get_by_label("Random", exact=True).fill("5")
    expect(estimated(page, "Items")).to_have_text("5", timeout=SOON)
    assert request(page)["targets"] == {
        "source": "dataset", "dataset": "cifar10-sample", "classes": ["cat", "dog"], "random": 5,
    }  # fmt: skip
    drawn = targets.locator(".tiles").first.locator(".caption")
    expect(drawn).to_have_count(5)
    assert {int(text[1:]) % 10 for text in drawn.all_text_contents()} <= {3, 5}  # the classes in turn: cats and dogs


DROP = """async ({selector, files}) => {
  const data = new DataTransfer();
  for (const {name, bytes} of files) data.items.add(new File([new Uint8Array(bytes)], name));
  const at = document.querySelector(selector);
  const how = {dataTransfer: data, bubbles: true, cancelable: true};
  for (const type of ["dragover", "drop"]) at.dispatchEvent(new DragEvent(type, how));
}"""


def test_dropped_and_chosen_files_become_targets_and_a_bad_one_is_named(
    still_service: Still, page: Page, tmp_path: Path
) -> None:
    with page_with_failing_requests(page) as page:
        open_form(page, still_service)
        files = [{"name": "first.png", "bytes": [*encode(noise())]}, {"name": f"{HOSTILE}.png", "bytes": [1, 2]}]
        page.evaluate(DROP, {"selector": '[data-field="targets"]', "files": files})
        targets = page.get_by_role("group", name="Targets")
        expect(targets.get_by_role("listitem").filter(has_text=HOSTILE)).to_be_visible(timeout=SOON)
        (tmp_path / "second.png").write_bytes(encode(noise(size=(32, 32))))
        targets.locator("input[type=file]").set_input_files(tmp_path / "second.png")
        pictures = targets.locator("img")
        expect(pictures).to_have_count(2, timeout=SOON)
        for picture in pictures.all():
            expect(picture).to_have_js_property("complete", True)
            assert picture.evaluate("image => image.naturalWidth") > 0
        expect(estimated(page, "Items")).to_have_text("2", timeout=SOON)
        assert [len(image) for image in request(page)["targets"]["images"]] == [71, 71]
        page.reload()
        targets.get_by_role("button", name="Remove first.png").click()
        expect(pictures).to_have_count(1)
        page.get_by_label("Source of start").select_option("patterns")
        page.get_by_role("button", name="Add text").click()
        assert request(page)["start"]["patterns"][-1] == "text"


def test_the_request_is_edited_as_json_and_copied_as_curl(still_service: Still, page: Page) -> None:
    open_form(page, still_service)
    text = page.get_by_role("textbox", name="The request")
    body = {
        "kind": "feature_visualization", "model": "cifar10-standard", "preset": "fast", "coordinates": [1, 2, 3, 9],
        "starts": [{"source": "gray", "level": 0.25}, {"source": "noise"}], "solver": "adam", "labels": {"it's": "x=y"},
        "combinations": [[{"coordinate": 3}, {"coordinate": 7, "weight": -0.5}]], "best": True,
        "top_images": {"dataset": "cifar10-sample", "k": 2}, "retention_seconds": 172800,
    }  # fmt: skip
    body["labels"] = {"team": "it's x=y"}
    text.fill(json.dumps(body)[:-1])
    expect(page.locator(".request .problem")).to_contain_text("Not read yet")
    text.fill(json.dumps(body))
    expect_taken(page)
    for label, value in {
        "Coordinates": "1-3, 9", "Combinations": "3, 7:-0.5", "Labels": "team=it's x=y", "Days kept": "2",
        "level": "0.25", "Kind": "feature_visualization", "Solver": '"adam"', "Best": "true",
    }.items():  # fmt: skip
        expect(page.get_by_label(re.compile(f"^{label}$", re.IGNORECASE))).to_have_value(value)
    page.get_by_text("Notes, priority, deadline").click()
    page.get_by_label("Description", exact=True).fill(HOSTILE)
    expected = body | {"description": HOSTILE}
    assert request(page) == expected  # the form has lost nothing of it
    page.get_by_role("button", name="curl").click()
    command = page.get_by_role("textbox", name="The request").input_value()
    answer = subprocess.run(["sh", "-c", f"{command} -s"], check=True, capture_output=True, text=True).stdout
    job = json.loads(answer)
    assert (job["kind"], job["description"], job["labels"]) == ("feature_visualization", HOSTILE, body["labels"])
    page.get_by_role("button", name="Python").click()
    expect(page.get_by_role("textbox", name="The request")).to_have_value(re.compile(r"client\.submit\("))
    page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('not here')))")
    page.get_by_role("button", name="Copy").click()
    shown = page.get_by_role("dialog", name="Copy the request as Python").get_by_role("textbox")
    expect(shown).to_have_value(re.compile(r"client\.submit\("))


def test_the_form_loses_nothing_of_any_request_in_the_reference(still_service: Still, page: Page) -> None:
    open_form(page, still_service)
    text = page.get_by_role("textbox", name="The request")
    for kind, body in ({name: body for name, (_, body) in JOBS.items()} | RECIPES).items():
        page.get_by_label("Kind", exact=True).first.select_option(body.get("kind", kind))
        text.fill(json.dumps(body))
        page.get_by_label("Description", exact=True).dispatch_event("input")  # the request is read from the form again
        assert request(page) == body


def test_what_the_user_chose_is_warned_of_and_an_evaluation_is_told_in_images(still_service: Still, page: Page) -> None:
    open_form(page, still_service)
    expect(page.locator(".estimate .note")).to_have_count(0)
    chosen = request(page) | {"judge": "cifar10-robust"}
    page.get_by_role("textbox", name="The request").fill(json.dumps(chosen))
    expect(page.locator(".estimate .note")).to_contain_text("not independent", timeout=SOON)
    open_form(page, still_service, "?kind=evaluation&dataset=cifar10-sample")
    expect(estimated(page, "Images")).to_have_text("400")
    expect(estimated(page, "Attack steps an image")).to_have_text(re.compile("^[1-9]"))


def test_an_address_fills_it_and_a_recipe_is_submitted(still_service: Still, page: Page) -> None:
    open_form(page, still_service, "?kind=figure-4&model=cifar10-standard&preset=fast")
    expect(page.get_by_label("Model")).to_have_value('"cifar10-standard"')
    page.get_by_label("Baseline").select_option("cifar10-robust")
    page.get_by_label("Radii").fill("0.5, 2")
    expect(estimated(page, "Items")).to_have_text("33", timeout=SOON)
    job = submitted(page, still_service)
    assert (job["kind"], job["parameters"]["recipe"], len(job["parts"])) == ("recipe", "figure-4", 2)
    assert job["parameters"]["request"]["radii"] == [0.5, 2]


def test_a_clone_begins_with_its_jobs_request_and_is_known_as_its_clone(still_service: Still, page: Page) -> None:
    body = JOBS["feature_manipulation"][1] | {"steps": 33, "labels": {"a": "1", "b": "2"}, "description": HOSTILE}
    first = still_service[0].submit(body)["id"]
    open_form(page, still_service, f"?clone={first}")
    assert request(page) == body
    page.get_by_label("Steps", exact=True).fill("")
    page.get_by_text("Notes, priority, deadline").click()
    page.get_by_label("Labels").fill("b=3")
    job = submitted(page, still_service)
    assert (job["cloned_from"], job["parameters"]["steps"], job["labels"]) == (first, 400, {"b": "3"})
    assert (job["description"], job["items"]["total"]) == (HOSTILE, 2)


def test_a_browser_that_keeps_no_state_and_a_year_beyond_all_calendars_end_nothing(
    still_service: Still, page: Page
) -> None:
    page.add_init_script("window.history.replaceState = () => { throw new DOMException('too often', 'SecurityError') }")
    open_form(page, still_service)
    page.get_by_text("Notes, priority, deadline").click()
    page.get_by_label("Deadline").fill("275760-09-13T00:00")
    assert request(page)["deadline"].startswith(("275760-09-1", "+275760-09-1"))
    expect(problem(page, "deadline")).not_to_be_empty(timeout=SOON)
    page.get_by_label("Deadline").fill("2099-09-13T00:00")
    expect_taken(page)
    assert request(page)["deadline"] == "2099-09-13T00:00:00.000Z"


def test_a_service_that_is_away_costs_nothing_that_was_filled_in(still_service: Still, page: Page) -> None:
    with page_with_failing_requests(page) as page:
        open_form(page, still_service)
        page.route("**/v1/jobs*", lambda route: route.abort())
        page.get_by_label("Steps", exact=True).fill("9")
        expect(page.locator(".estimate")).to_contain_text("Cannot reach the API", timeout=SOON)
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("button", name="Submit")).to_be_enabled(timeout=SOON)
        page.unroute("**/v1/jobs*")
        expect(estimated(page, "Image-steps")).to_have_text("72", timeout=SOON)
        assert submitted(page, still_service)["parameters"]["steps"] == 9


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_phone(still_service: Still, page: Page, theme: Any) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 360, "height": 740})
    open_form(page, still_service, "?kind=feature_visualization")
    for fold in page.locator("details > summary").all():
        fold.click()
    assert page.evaluate("document.querySelector('main').scrollWidth") <= 360
