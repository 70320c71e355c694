"""Training, evaluation, rankings and registrations as requests: what they become, and how bad ones are refused."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from service import registry
from service.cards import DatasetCard, ModelCard
from service.catalog import Catalog, Dataset, label_of
from service.db import Database
from service.kinds.planning import unlabelled
from service.models import RegisteredModel
from service.settings import Settings
from service.training import PRESETS
from tests.fixtures import inversion
from tests.service.test_api import assert_problem, post
from workers import assets
from workers.engine import models, training_config

ROBUST, SAMPLE, PHOTOS = "cifar10-robust", "cifar10-sample", "natural-sample"
BODIES: dict[str, dict[str, Any]] = {
    "training": {"architecture": "cifar-resnet-small", "dataset": SAMPLE, "preset": "cifar-small"},
    "evaluation": {"model": ROBUST, "dataset": SAMPLE},
    "activating_images": {"model": ROBUST, "dataset": SAMPLE, "coordinates": [3, 5]},
}
MODEL = {"name": "mine", "source": {"source": "torchvision", "weights": "ResNet18_Weights.IMAGENET1K_V1"}}
UPLOADED = {"source": "upload", "checkpoint": "sha256:" + 64 * "0"}
DATASET = {"name": "mine", "format": "images", "root": "bucket", "path": "imports/photos"}


def body(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind} | BODIES[kind] | changes


def accepted(api: TestClient, body: dict[str, Any], path: str = "/v1/jobs") -> dict[str, Any]:
    response = api.post(path, json=body)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def items(api: TestClient, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(job["links"]["items"], params={"limit": 500}).json()["items"]
    return found


Bad = tuple[dict[str, Any], tuple[str, ...], str]
BAD_JOBS: dict[str, Bad] = {
    "architecture": (body("training", architecture="resnet"), ("architecture",), "is unknown; allowed: cifar-resnet"),
    "every name at once": (
        body("training", dataset="x", validation="y", twin="z", judge="w"), ("dataset", "validation", "twin", "judge"),
        "is unknown"),
    "an attack at radius 0": (body("training", eps=0.0, attack_steps=3), ("body",), "which has no attack"),
    "a batch over the data set": (body("training", batch_size=401), ("batch_size",), "at most 400, all images"),
    "a batch that processes cannot share": (
        body("training", batch_size=10, processes=4), ("processes",), "a divisor of batch_size, 10"),
    "the preset's batch likewise": (body("training", processes=3), ("processes",), "a divisor of batch_size, 128"),
    "drops out of order": (body("training", lr_drops=[5, 5]), ("body",), "must increase"),
    "another norm": (body("training", norm="l1"), ("norm",), "'l2' or 'linf'"),
    "classes of another data set": (body("training", validation=PHOTOS), ("validation",), "has other classes"),
    "a name that is taken": (body("training", name=ROBUST), ("name",), "registered already"),
    "images to be cropped that are of another size": (
        body("training", input_size=64), ("augmentation",), "crops images of 64 x 64"),
    "a network of fixed size on others": (
        body("training", architecture="vit_b_16", augmentation="none"), ("input_size",),
        "is 32; allowed: 224, all that vit_b_16 takes"),
    "evaluation of nothing known": (body("evaluation", model="x", dataset="y"), ("model", "dataset"), "is unknown"),
    "attacks without end": (
        body("evaluation", attacks=[{"kind": "apgd-t", "steps": 10_000, "restarts": 100}]), ("attacks",),
        "take 9,000,900 steps in all, restarts and targets included; allowed: 100,000"),
    "radius 0": (body("evaluation", eps=0.0), ("eps",), "greater than 0"),
    "an attack twice": (body("evaluation", attacks=[{"steps": 5}, {"steps": 5}]), ("attacks",), "an attack twice"),
    "a step for apgd": (
        body("evaluation", attacks=[{"kind": "apgd-ce", "step_size": 0.1}]), ("attacks.0",), "chooses its own"),
    "other classes": (body("evaluation", dataset=PHOTOS), ("dataset",), "has 8 classes and cifar10-robust 10"),
    "a ranking out of range": (
        body("activating_images", coordinates=[192]), ("coordinates.0",), "is 192; allowed: 0 to 191"),
    "a ranking of more than there is": (
        body("activating_images", dataset=PHOTOS, k=5), ("k",), "at most 4, half of the data set"),
    "a ranking of nothing": (body("activating_images", coordinates=[]), ("body",), "names nothing"),
    "a ranking that knows no radius": (body("activating_images", eps=1.0), ("eps",), "not permitted"),
}  # fmt: skip
BAD_MODELS: dict[str, Bad] = {
    "taken": (MODEL | {"name": ROBUST}, ("name",), "registered already"),
    "no such upload": (MODEL | {"source": UPLOADED, "architecture": "resnet18"}, ("source.checkpoint",), "is unknown"),
    "an upload of unknown architecture": (
        MODEL | {"source": UPLOADED}, ("architecture", "source.checkpoint"), "a checkpoint does not tell"),
    "an object elsewhere in the bucket": (
        MODEL | {"architecture": "resnet18", "source": {"source": "object", "key": "jobs/a/items/0/1/x"}},
        ("source.key",), "begins with imports/"),
    "an object above the bucket": (
        MODEL | {"architecture": "resnet18", "source": {"source": "object", "key": "imports/../../x"}},
        ("source.key",), "without .."),
    "no such job": (MODEL | {"source": {"source": "training", "job": "job_0"}}, ("source.job",), "no such job"),
    "weights of no such form": (
        MODEL | {"source": {"source": "torchvision", "weights": "resnet18"}}, ("source.weights",), "match"),
    "a network of fixed size on others": (
        MODEL | {"source": UPLOADED, "architecture": "vit_b_16", "input_size": 384},
        ("source.checkpoint", "input_size"), "is 384; allowed: 224"),
    "a class twice": (MODEL | {"classes": ["a", "a"]}, ("body",), "names a class twice"),
    "no deviation": (MODEL | {"mean": [0.5] * 3, "std": [0.0] * 3}, ("std.0", "std.1", "std.2"), "greater than 0"),
    "a mean alone": (MODEL | {"mean": [0.5] * 3}, ("std",), "go together"),
    "accuracy of nothing": (MODEL | {"least_accuracy": 0.5}, ("least_accuracy",), "needs a dataset"),
    "classes that the data set has not": (
        MODEL | {"dataset": SAMPLE, "classes": ["cat", "dog"]}, ("classes",), "lacks classes of cifar10-sample"),
}  # fmt: skip
BAD_DATASETS: dict[str, Bad] = {
    "taken": (DATASET | {"name": SAMPLE}, ("name",), "registered already"),
    "no folder here": (DATASET | {"root": "folder", "path": "x"}, ("root",), "has no datasets_dir"),
    "above the root": (DATASET | {"path": "imports/../x"}, ("path",), "without .."),
    "absolute": (DATASET | {"path": "/etc"}, ("path",), "without .."),
    "elsewhere in the bucket": (DATASET | {"path": "jobs"}, ("path",), "begins with imports/"),
    "balance of what has none": (DATASET | {"balanced": True}, ("balanced",), "has no place in format images"),
    "half a normalisation": (DATASET | {"mean": [0.5, 0.5, 0.5]}, ("std",), "go together"),
    "another format": (DATASET | {"format": "mnist"}, ("format",), "'cifar10'"),
}  # fmt: skip
BAD = [("/v1/jobs", BAD_JOBS), ("/v1/models", BAD_MODELS), ("/v1/datasets", BAD_DATASETS)]


@pytest.mark.parametrize(("path", "case"), [(path, case) for path, cases in BAD for case in cases])
def test_a_bad_request_is_refused_by_field_and_makes_nothing(api: TestClient, path: str, case: str) -> None:
    sent, fields, said = dict(BAD)[path][case]
    problem = assert_problem(api.post(path, json=sent), 422, *fields)
    assert said in problem["detail"]
    assert api.get("/v1/jobs").json()["jobs"] == []


def test_a_training_job_resolves_its_preset_and_counts_its_steps(api: TestClient) -> None:
    job = accepted(api, body("training", epochs=3, eps=0.25, validation=SAMPLE))
    parameters = job["parameters"]
    assert {"eps": 0.25, "attack_steps": 2, "attack_step_size": 0.75, "schedule": "one-cycle", "momentum": 0.95,
            "batch_size": 128, "input_size": 32, "steps": 9, "norm": "l2"}.items() <= parameters.items()  # fmt: skip
    assert len(parameters["classes"]) == 10
    assert job["progress"]["steps_total"] == 9
    assert [item["target"]["label"] for item in items(api, job)] == ["cifar-resnet-small on cifar10-sample"]
    assert "the validation images are the training images" in job["warnings"][0]


def test_the_papers_presets_are_its_tables(api: TestClient) -> None:
    for preset, drops in {"paper-restricted": [30, 60], "paper-imagenet": [100]}.items():
        p = accepted(api, body("training", preset=preset, input_size=224, batch_size=256))["parameters"]
        assert (p["eps"], p["attack_steps"], p["attack_step_size"], p["random_start"]) == (3.0, 7, 0.5, True)
        assert (p["lr"], p["lr_drops"], p["lr_factor"], p["epochs"], p["weight_decay"]) == (0.1, drops, 0.1, 110, 5e-4)
        assert (p["momentum"], p["batch_size"], p["augmentation"]) == (0.9, 256, "imagenet")


def test_radius_0_is_standard_training_without_an_attack(api: TestClient) -> None:
    parameters = accepted(api, body("training", eps=0.0))["parameters"]
    assert (parameters["attack_steps"], parameters["attack_step_size"], parameters["random_start"]) == (0, 0, False)


def test_an_evaluation_is_shared_out_in_runs_and_put_together_at_the_end(api: TestClient) -> None:
    job = accepted(api, body("evaluation", preset="cifar"))
    *runs, last = [item["target"] for item in items(api, job)]
    assert sum(run["count"] for run in runs) == 400
    assert last["source"] == "summary"
    assert [(a["kind"], a["steps"]) for a in job["parameters"]["attacks"]] == [("pgd", 20), ("pgd", 100)]
    assert job["parameters"]["class_of"] == list(range(10))


def test_images_of_an_evaluation_are_drawn_by_the_seed(api: TestClient) -> None:
    parameters = accepted(api, body("evaluation", images=50))["parameters"]
    assert parameters["images"] == 50


def test_a_strong_evaluation_counts_the_steps_of_every_target(api: TestClient) -> None:
    job = accepted(api, body("evaluation", preset="strong"))
    assert job["parameters"]["steps"] == 1 + 21 + 101 + 101 + 9 * 101 + 31


def test_images_of_another_size_are_said_to_be_resampled_or_refused(api: TestClient) -> None:
    big = body("activating_images", dataset=PHOTOS, k=2)
    assert "128 x 128" in accepted(api, big)["warnings"][0]
    assert_problem(post(api, big | {"resize": "refuse"}), 422, "resize")


def test_registrations_are_jobs_that_can_be_sent_twice(api: TestClient) -> None:
    for path, sent in (("/v1/models", MODEL), ("/v1/datasets", DATASET)):
        first, again = (api.post(path, json=sent, headers={"Idempotency-Key": path}) for _ in range(2))
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["id"] == again.json()["id"]
        assert first.json()["kind"].endswith("_registration")


def test_a_checkpoint_is_uploaded_as_it_is_once(api: TestClient) -> None:
    data = bytes(range(256)) * 1000
    first, again = (api.post("/v1/checkpoints", content=data) for _ in range(2))
    assert (first.status_code, first.json()) == (201, again.json())
    assert api.get(first.headers["location"]).json()["size"] == len(data)
    known = accepted(api, MODEL | {"source": UPLOADED | {"checkpoint": first.json()["id"]}, "architecture": "resnet18"},
                     "/v1/models")  # fmt: skip
    assert "nobody checks" in known["warnings"][0]


def test_an_empty_checkpoint_is_refused_and_an_unknown_one_not_found(api: TestClient) -> None:
    assert_problem(api.post("/v1/checkpoints", content=b""), 422, "body")
    assert_problem(api.get("/v1/checkpoints/sha256:00"), 404)


def test_a_shipped_data_sets_images_can_be_looked_at(api: TestClient) -> None:
    response = api.get(f"/v1/datasets/{SAMPLE}/images/7")
    assert response.headers["content-type"] == "image/png"
    assert_problem(api.get(f"/v1/datasets/{SAMPLE}/images/400"), 404)
    assert_problem(api.get("/v1/datasets/none/images/0"), 404)


def test_what_other_kinds_have_no_epochs_or_evaluations(api: TestClient) -> None:
    job = post(api, inversion()).json()
    assert api.get(f"/v1/jobs/{job['id']}/epochs").json() == {"epochs": []}
    assert api.get(f"/v1/models/{ROBUST}/evaluations").json() == {"evaluations": []}
    assert_problem(api.get("/v1/jobs/job_0/epochs"), 404)


def test_every_architecture_says_what_it_takes(api: TestClient) -> None:
    found = api.get("/v1/architectures").json()
    small = {"input_size": 32, "features": 192, "identity_relu": True, "fixed_size": False}
    assert found["cifar-resnet-small"] == small
    assert [name for name, each in found.items() if each["fixed_size"]] == [
        "maxvit_t", "vit_b_16", "vit_b_32", "vit_h_14", "vit_l_16", "vit_l_32"]  # fmt: skip


def test_presets_are_those_of_the_engine() -> None:
    renamed = {"epsilon": "eps"}
    theirs = {
        name: {renamed.get(n, n): list(v) if isinstance(v, tuple) else v for n, v in values.items()}
        for name, values in training_config.PRESETS.items()
    }
    assert theirs == PRESETS


@pytest.mark.slow
def test_the_architectures_that_the_service_knows_are_the_engines() -> None:
    known = json.loads(assets.CATALOG.read_text())
    assert known == {name: assets.described(name) for name in models.architectures()}


def card(**changes: Any) -> DatasetCard:
    about = {"name": "some", "title": "", "size": 6, "image_size": 32, "classes": ["a", "b", "c"], "digest": "0",
             "licence": ""}  # fmt: skip
    return DatasetCard.model_validate(about | changes)


def test_images_without_a_label_are_in_no_class() -> None:
    images = SimpleNamespace(card=card(), labels=[2, -1])
    assert [label_of(cast(Dataset, images), i) for i in (0, 1)] == ["c", None]
    assert label_of(cast(Dataset, SimpleNamespace(card=card(classes=[]), labels=[-1])), 0) is None
    assert [e.message for e in unlabelled("dataset", card(unlabelled=2))] == ["some has 2 images without a label"]
    assert unlabelled("dataset", card()) == []


def test_what_is_registered_is_not_forgotten_for_an_older_view_of_the_database(sqlite_url: str) -> None:
    db = Database(sqlite_url)
    catalog = Catalog(Settings().assets_dir)
    with db.reading() as old:
        catalog.refresh(old)
        with db.transaction() as session:
            registered = ModelCard.model_validate(catalog.models["cifar10-robust"].model_dump() | {"name": "mine"})
            session.add(
                RegisteredModel(
                    name="mine", digest="d", key="k", card=registered.model_dump(mode="json"), created_at=1.0
                )
            )
        with db.reading() as new:
            assert "mine" in catalog.refresh(new).models
        assert "mine" in catalog.refresh(old).models
    db.close()


def test_a_card_that_nobody_could_read_is_not_registered() -> None:
    with pytest.raises(ValueError, match="title"):
        registry.add_dataset("job", {"name": "x"}, {})


@pytest.mark.parametrize("path", ["/v1/jobs?stat=queued", "/v1/workers?foo=1&foo=2", "/v1/models?limit=3"])
def test_a_query_parameter_that_nobody_knows_is_refused_by_name(api: TestClient, path: str) -> None:
    assert_problem(api.get(path), 422, path.partition("?")[2].partition("=")[0])


def test_a_misspelt_dry_run_makes_no_job(api: TestClient) -> None:
    problem = assert_problem(api.post("/v1/jobs?dryrun=true", json=inversion()), 422, "dryrun")
    assert "dry_run" in problem["errors"][0]["message"]
    assert api.get("/v1/jobs").json()["jobs"] == []
