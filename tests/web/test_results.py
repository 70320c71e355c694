"""The pages of training, evaluation, ranking and registration jobs, and of what they add, in a real browser."""

import csv
import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from service.settings import Settings
from tests.fixtures import LiveService
from tests.web.test_dashboard import HOSTILE, LATE, SOON, changed, expect_curve, expect_state, open_job, row_of

pytestmark = pytest.mark.e2e

TRAINING: dict[str, Any] = {
    "kind": "training", "architecture": "cifar-resnet-slim", "dataset": "cifar10-sample",
    "validation": "cifar10-sample", "preset": "cifar-small", "epochs": 2, "batch_size": 128, "evaluation_images": 20,
}  # fmt: skip
EVALUATION: dict[str, Any] = {
    "kind": "evaluation", "model": "cifar10-robust", "dataset": "cifar10-sample", "preset": "cifar", "images": 40,
    "attacks": [{"steps": 2}],
}  # fmt: skip
REGISTRATION = {"name": "pictures", "format": "image_folder", "root": "bucket", "path": "imports/none"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Runs of few images, so that a small evaluation has several."""
    return settings.model_copy(update={"evaluation_images": 16})


@pytest.mark.slow
def test_training_draws_its_epochs_then_names_the_network(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(TRAINING)
    open_job(page, live_service, job["id"])
    page.evaluate("window.stayed = true")
    expect(page.locator("[data-ref=numbers]")).to_contain_text("of 6 optimiser steps")
    expect(page.locator(".curve .chart-title")).to_contain_text("Loss")
    expect(page.locator(".charts canvas").first).to_be_visible(timeout=LATE)
    expect_state(page, "succeeded")
    assert page.evaluate("window.stayed")
    for chart in page.locator(".chart").all():
        expect_curve(chart)
    epochs = live_service.client.request("GET", f"/v1/jobs/{job['id']}/epochs").json()["epochs"]
    last = epochs[-1]["metrics"]
    expect(page.get_by_role("slider", name="Accuracy")).to_have_attribute("aria-valuetext", re.compile("^epoch 2: "))
    for name, metric in {"trained on": "train_accuracy", "clean": "clean_accuracy", "PGD-10": "pgd10_accuracy"}.items():
        expect(page.locator(".key").filter(has_text=f"{name} {100 * last[metric]:.1f} %")).to_be_visible()
    expect(page.get_by_text(re.compile(r"Epoch 2: [\d,]+ images/s · .* waiting for data"))).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)

    with page.expect_download() as download:
        page.get_by_role("link", name="card.json").click()
    card = json.loads(download.value.path().read_text())
    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors").click()
    weights = download.value.path().read_bytes()
    page.get_by_role("link", name=card["name"]).click()
    expect(page.get_by_role("heading", name=card["name"])).to_be_visible(timeout=SOON)
    expect(page.get_by_role("table", name="Evaluations")).to_contain_text(job["id"])
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the weights").click()
    assert download.value.path().read_bytes() == weights


@pytest.mark.slow
def test_a_training_that_diverges_says_so(live_service: LiveService, page: Page) -> None:
    hot = {"eps": 0.0, "lr": 100.0, "schedule": "constant", "weight_decay": 1.0, "validation": None}
    job = live_service.submit(TRAINING | hot | {"epochs": 20})
    open_job(page, live_service, job["id"])
    expect_state(page, "failed")
    expect(page.locator(".note[data-tone=bad]").filter(has_text="Training diverged")).to_be_visible(timeout=SOON)
    expect(page.get_by_role("link", name="model.safetensors")).to_have_count(0)


def test_an_evaluation_shows_its_accuracies_by_attack_and_class(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(EVALUATION)
    open_job(page, live_service, job["id"])
    expect(page.get_by_text(re.compile("of 3 runs of images done"))).to_be_visible()
    expect_state(page, "succeeded")
    files = {}
    for name in ("summary.json", "classes.csv", "images.csv"):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        files[name] = download.value.path().read_text()
    summary = json.loads(files["summary.json"])
    assert summary["images"] == len(list(csv.DictReader(files["images.csv"].splitlines()))) == 40
    rows = page.get_by_role("table", name="Accuracy", exact=True).locator("tbody tr")
    shares = [summary["clean"], *summary["attacks"], *summary["worst"]]
    expect(rows).to_have_count(len(shares))
    for row, share in zip(rows.all(), shares, strict=True):
        numbers = [f"{100 * share[name]:.1f}" for name in ("accuracy", "low", "high")]
        expect(row.locator("td").first).to_have_text("{} % [{}, {}]".format(*numbers))
    expect(rows.nth(1).locator("th")).to_have_text("pgd-2within L2 0.5")
    classes = page.get_by_role("table", name="Accuracy by class").locator("tbody tr")
    expect(classes.locator("th")).to_have_text([each["label"] for each in summary["classes"]])
    expect(page.locator(".curve")).to_be_hidden()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator(".note")).to_have_count(0)

    page.locator("[data-ref=parameters]").get_by_role("link", name="cifar10-robust").click()
    found = page.get_by_role("table", name="Evaluations").locator("tbody tr").filter(has_text=job["id"])
    expect(found).to_contain_text(f"{100 * summary['clean']['accuracy']:.1f} %", timeout=SOON)


def test_suspicions_and_missing_images_are_warned_of_and_stay_text(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(EVALUATION)
    live_service.wait(job["id"])

    def poison(body: dict[str, Any]) -> None:
        body |= {"suspicions": [HOSTILE], "missing": 16}
        body["classes"][0]["label"] = body["attacks"][0]["name"] = HOSTILE

    page.route("**/artifacts/summary.json?*", changed(poison))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    open_job(page, live_service, job["id"])
    sign = page.locator(".note").filter(has_text="1 sign that the network hides its gradients")
    expect(sign).to_contain_text(HOSTILE, timeout=SOON)
    expect(page.locator(".note").filter(has_text="16 images missing")).to_be_visible()
    expect(page.get_by_role("table", name="Accuracy", exact=True)).to_contain_text(HOSTILE)
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_a_table_of_accuracies_is_a_recipe_of_evaluations(live_service: LiveService, page: Page) -> None:
    asked = {name: EVALUATION[name] for name in ("model", "dataset", "preset", "images", "attacks")}
    job = live_service.client.recipe("table-4", **asked | {"controls": False})
    live_service.wait(job["id"])
    page.goto(f"{live_service.url}/ui/jobs/{job['id']}")
    claims = page.get_by_role("table", name=re.compile("^Claims")).locator("tbody tr")
    expect(claims.locator("th")).to_have_text([re.compile("clean"), re.compile("pgd-2")], timeout=SOON)
    parts = page.get_by_role("table", name="Parts").locator("tbody tr")
    expect(parts.locator(".c-model")).to_have_text(["cifar10-robust", "cifar10-standard"])
    assert page.get_by_role("img", name="table-4").evaluate("image => image.naturalWidth") > 300


def test_a_ranking_shows_the_images_at_both_ends_of_each_direction(live_service: LiveService, page: Page) -> None:
    body = {"kind": "activating_images", "model": "cifar10-robust", "dataset": "cifar10-sample", "k": 3}
    job = live_service.submit(body | {"coordinates": [3, 12]})
    live_service.wait(job["id"])
    open_job(page, live_service, job["id"])
    panels = page.locator(".extremes")
    expect(panels.locator("h2")).to_have_text(["coordinate 3", "coordinate 12"], timeout=SOON)
    for image in panels.locator("img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("naturalWidth", 32)
    expect(panels.locator("img")).to_have_count(12)


def test_a_refused_registration_says_what_is_wrong(live_service: LiveService, page: Page) -> None:
    job = live_service.client.request("POST", "/v1/datasets", json=REGISTRATION).json()
    open_job(page, live_service, job["id"])
    expect_state(page, "failed")
    expect(page.locator(".note[data-tone=bad]")).to_contain_text("imports/none", timeout=SOON)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Jobs").click()
    expect(row_of(page, job["id"])).to_contain_text("dataset registration: pictures", timeout=SOON)


def test_a_data_set_has_a_page_with_its_first_images(live_service: LiveService, page: Page) -> None:
    page.goto(f"{live_service.url}/ui/datasets")
    page.get_by_role("table", name="Data sets").get_by_role("link", name="cifar10-sample").click()
    expect(page.get_by_role("heading", name="cifar10-sample")).to_be_visible(timeout=SOON)
    images = page.locator(".gallery img")
    expect(images).to_have_count(48)
    for image in images.all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("naturalWidth", 32)
    card = page.get_by_role("table", name="Card")
    for field in ("licence", "digest", "size"):
        expect(card.get_by_role("row").filter(has_text=re.compile(f"^{field}"))).to_have_count(1)


def test_the_models_lead_to_their_cards(live_service: LiveService, page: Page) -> None:
    page.goto(f"{live_service.url}/ui/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Models").click()
    row = page.get_by_role("table", name="Models").locator("tbody tr").filter(has_text="cifar10-robust")
    expect(row).to_contain_text("74.0 %", timeout=SOON)
    row.get_by_role("link").click()
    expect(page.get_by_text("No evaluation job has measured it yet")).to_be_visible(timeout=SOON)
    page.get_by_role("table", name="Card").get_by_role("link", name="cifar10-standard").click()
    expect(page.get_by_role("heading", name="cifar10-standard")).to_be_visible(timeout=SOON)


def test_hostile_text_of_a_card_stays_text(live_service: LiveService, page: Page) -> None:
    def poison(body: Any) -> None:
        for card in body if isinstance(body, list) else [body]:
            card |= {"title": HOSTILE, "licence": HOSTILE, "twin": HOSTILE, "classes": [HOSTILE], HOSTILE: HOSTILE}

    page.route(re.compile(r"/v1/(models|datasets)(/[^/]+)?$"), changed(poison))
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    for path in ("models", "models/cifar10-robust", "datasets", "datasets/cifar10-sample"):
        page.goto(f"{live_service.url}/ui/{path}")
        expect(page.locator("main")).to_contain_text(HOSTILE, timeout=SOON)
        expect(page.locator("img[src=x]")).to_have_count(0)


def test_no_page_of_results_scrolls_sideways(live_service: LiveService, page: Page) -> None:
    job = live_service.submit(EVALUATION)
    live_service.wait(job["id"])
    paths = (f"jobs/{job['id']}", "models", "models/cifar10-robust", "datasets", "datasets/natural-sample")
    for path in paths:
        page.goto(f"{live_service.url}/ui/{path}")
        expect(page.get_by_role("table").first).to_be_visible(timeout=SOON)
        for width in (360, 730, 1000, 1280):
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
