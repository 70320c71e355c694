"""A tenant comes at nothing of another's, by no operation; and what it has counts for itself alone."""

import copy
from threading import Event
from typing import Any

import pytest
from sqlalchemy import select, update

from service.access import places, registry
from service.bulk.planner import BulkPlanner
from service.bulk_models import Delivery, Manifest
from service.models import Image, Item, Job, Upload
from service.reference.schema import operations
from service.reuse import finished
from service.states import ItemState
from service.webhooks import outbox
from tests import compatibility
from tests.fixtures import inversion
from tests.service.bodies import RECIPE_BODIES
from tests.service.tenancy import CHECKPOINT, IMAGE, LINE, Tenants, posted

SCHEMA = compatibility.present()
NOBODYS = {"job_id": "job_none", "image_id": "sha256:" + "0" * 64, "manifest_id": "sha256:" + "0" * 64,
           "upload_id": "upload_none", "checkpoint": "sha256:" + "0" * 64, "webhook_id": "wh_none",
           "delivery_id": "msg_none"}  # fmt: skip
ABOUT = [(method, path) for path, method, _ in operations(SCHEMA) if path.startswith("/v1/") and "{" in path]
LISTS = [
    path for path, method, _ in operations(SCHEMA) if path.startswith("/v1/") and "{" not in path and method == "get"
]
PUBLIC = {"/v1/recipes", "/v1/architectures", "/v1/session"}
"""Lists that say the same to everybody."""


def _path(path: str, known: dict[str, str], missing: bool) -> str:
    """Of something of the other tenant, or of nothing. A parameter that nobody thought of is an error here."""
    names = known | {"upload_id": known["checkpoint"]} if path.startswith("/v1/checkpoints") else dict(known)
    names |= {"index": "0"}
    if path.startswith(("/v1/models", "/v1/datasets")):
        names["name"] = "no-such" if missing else "secret-net" if "models" in path else "secret-set"
    else:
        names["name"] = "0-1-0.tar" if "result-shards" in path else "result.png"
    return path.format_map(names)


@pytest.mark.parametrize(("method", "path"), ABOUT)
def test_what_is_another_tenants_is_not_there(tenants: Tenants, method: str, path: str) -> None:
    body: dict[str, Any] = (
        {"json": {}} if method in ("post", "patch") and "requestBody" in SCHEMA["paths"][path][method] else {}
    )
    if method == "put":
        body = {"content": b"to come"}
    answers = [tenants.http.request(method, _path(path, known, known is NOBODYS), headers=tenants.rival, **body)
               for known in (tenants.known, NOBODYS)]  # fmt: skip
    assert [answer.status_code for answer in answers] == [404, 404], answers[0].text
    theirs, nobodys = (answer.json()["detail"] for answer in answers)
    for name, value in tenants.known.items():
        theirs = theirs.replace(value, NOBODYS[name])
    for name in ("secret-net", "secret-set"):
        theirs = theirs.replace(name, "no-such")
    assert theirs == nobodys, "the answer tells that it is there"


@pytest.mark.parametrize("path", sorted({*LISTS} - PUBLIC))
def test_no_list_has_anything_of_another_tenant(tenants: Tenants, path: str) -> None:
    own, others = (tenants.http.get(path, headers=headers) for headers in (tenants.acme, tenants.rival))
    assert (own.status_code, others.status_code) == (200, 200)
    secrets = [*tenants.known.values(), "secret-net", "secret-set"]
    assert [each for each in secrets if each in others.text] == []
    if path != "/v1/workers":
        assert [each for each in secrets if each in own.text], "its own is not listed either, so this tells nothing"


def test_evaluations_of_a_shipped_network_are_told_to_who_made_them(tenants: Tenants) -> None:
    path, job = "/v1/models/cifar10-robust/evaluations", tenants.known["job_id"]
    own, others = (tenants.http.get(path, headers=each).json() for each in (tenants.acme, tenants.rival))
    assert (own["evaluations"][0]["job"], others["evaluations"]) == (job, [])


@pytest.mark.parametrize(("method", "path"), ABOUT)
def test_what_is_ones_own_is_there(tenants: Tenants, method: str, path: str) -> None:
    if method != "get" or path.endswith(("/events", "/archive", "/preview.png", "/checkpoint", "/{name}", "/weights")):
        return
    if "images/{index}" in path:
        return
    answer = tenants.http.get(_path(path, tenants.known, False), headers=tenants.acme)
    assert answer.status_code == 200, answer.text


def test_the_same_idempotency_key_of_two_tenants_makes_two_jobs(tenants: Tenants) -> None:
    key = {"Idempotency-Key": "the same"}
    first, other, again = (
        tenants.http.post("/v1/jobs", json=inversion(), headers=headers | key).json()["id"]
        for headers in (tenants.acme, tenants.rival, tenants.acme)
    )
    assert first == again != other
    changed = tenants.http.post("/v1/jobs", json=inversion(steps=3), headers=tenants.rival | key)
    assert (changed.status_code, changed.json()["detail"]) == (
        422, f"Idempotency-Key was used for another request, job {other}",
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        inversion(model="secret-net"),
        inversion(judge="secret-net"),
        inversion(targets={"source": "dataset", "dataset": "secret-set", "indices": [0]}),
        inversion(targets={"source": "images", "images": ["IMAGE"]}),
        inversion(targets={"source": "manifest", "manifest": "MANIFEST"}),
    ],
)
def test_a_job_may_not_name_what_is_another_tenants(tenants: Tenants, body: dict[str, Any]) -> None:
    sent = copy.deepcopy(body)
    if sent["targets"].get("images"):
        sent["targets"]["images"] = [tenants.known["image_id"]]
    if sent["targets"].get("manifest"):
        sent["targets"]["manifest"] = tenants.known["manifest_id"]
    answer = tenants.http.post("/v1/jobs", json=sent, headers=tenants.rival)
    assert (answer.status_code, "unknown" in answer.json()["detail"]) == (422, True)
    assert "secret" not in answer.json()["detail"].replace(str(body.get("model")), "")


def test_a_recipe_may_not_either(tenants: Tenants) -> None:
    body = {"model": "cifar10-robust", "baseline": "secret-net", "preset": "cifar", **RECIPE_BODIES["figure-3"]}
    answer = tenants.http.post("/v1/recipes/figure-3", json=body, headers=tenants.rival)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "baseline")


def test_a_recipes_parts_are_its_tenants(tenants: Tenants) -> None:
    body = {"model": "cifar10-robust", "baseline": "cifar10-standard", "preset": "cifar", **RECIPE_BODIES["figure-3"]}
    job = tenants.http.post("/v1/recipes/figure-3", json=body, headers=tenants.acme).json()
    assert job["parts"]
    for part in job["parts"].values():
        assert tenants.http.get(f"/v1/jobs/{part}", headers=tenants.acme).status_code == 200
        assert tenants.http.get(f"/v1/jobs/{part}", headers=tenants.rival).status_code == 404


def test_a_model_is_not_registered_from_another_tenants_files_or_jobs(tenants: Tenants) -> None:
    for source in (
        {"source": "upload", "checkpoint": tenants.known["checkpoint"]},
        {"source": "training", "job": tenants.known["job_id"]},
    ):
        body = {"name": "mine", "architecture": "cifar-resnet-small", "source": source}
        answer = tenants.http.post("/v1/models", json=body, headers=tenants.rival)
        assert answer.status_code == 422
        assert "unknown" in answer.text or "no such job" in answer.text


def test_what_another_tenant_posted_has_to_be_posted_again_before_it_is_ones_own(tenants: Tenants) -> None:
    headers = tenants.key("rival")
    for path, content, name in (
        ("/v1/images", IMAGE, "image_id"), ("/v1/manifests", LINE, "manifest_id"),
        ("/v1/checkpoints", CHECKPOINT, "checkpoint"),
    ):  # fmt: skip
        where = f"{path}/{tenants.known[name]}"
        assert tenants.http.get(where, headers=headers).status_code == 404
        digest = tenants.known[name].removeprefix("sha256:")
        kind = {"image_id": "image", "manifest_id": "manifest", "checkpoint": "checkpoint"}[name]
        begun = tenants.http.post(
            "/v1/uploads", headers=headers, json={"kind": kind, "size": len(content), "sha256": digest}
        )
        assert begun.json()["result"] is None, "whoever knows a digest would know that it is here"
    with tenants.context.db.transaction() as session:
        registry.create_tenant(session, "third")
    third = tenants.key("third")
    assert posted(tenants.http, third)["image_id"] == tenants.known["image_id"]
    assert tenants.http.get(f"/v1/images/{tenants.known['image_id']}", headers=third).content == IMAGE


def test_a_session_of_a_tenant_changes_and_removes_nothing_of_another(tenants: Tenants) -> None:
    rival, job_id = tenants.context.db.of("rival"), tenants.known["job_id"]
    with rival.transaction() as session:
        changed = session.execute(update(Job).where(Job.id == job_id).values(description="mine").returning(Job.id))
        assert changed.all() == []
        assert session.get(Job, job_id) is None
        for table, name in ((Image, "image_id"), (Manifest, "manifest_id"), (Upload, "checkpoint")):
            if name == "checkpoint":
                assert session.get(table, tenants.known[name]) is None
        assert session.scalars(select(Job.id).where(Job.tenant == "acme")).all() == []
        joined = select(Item.index).join(Job, Job.id == Item.job_id).where(Item.job_id == job_id)
        assert session.scalars(joined).all() == []


def test_what_another_tenants_job_finished_is_not_taken_over(tenants: Tenants) -> None:
    job_id, digest = tenants.known["job_id"], "d" * 32
    with tenants.context.db.transaction() as session:
        done = (Item.job_id == job_id) & (Item.state == ItemState.SUCCEEDED)
        session.execute(
            update(Item).where(done).values(digest=digest), execution_options={"synchronize_session": False}
        )
    found = {}
    for tenant in ("acme", "rival"):
        with tenants.context.db.of(tenant).transaction() as session:
            found[tenant] = list(finished(session, "job_new", [digest]))
    assert found == {"acme": [digest], "rival": []}


def test_webhooks_are_told_of_their_tenants_jobs_alone(tenants: Tenants) -> None:
    hooks = {
        name: tenants.http.post(
            "/v1/webhooks", headers=headers, json={"url": "http://127.0.0.1:1/", "events": ["job.*"]}
        )
        for name, headers in (("acme", tenants.acme), ("rival", tenants.rival))
    }
    job_id = tenants.known["job_id"]
    with tenants.context.db.transaction() as session:
        outbox.note(session, job_id, "running")
    with tenants.context.db.reading() as session:
        told = set(session.scalars(select(Delivery.webhook_id).where(Delivery.job_id == job_id)))
    assert hooks["acme"].json()["id"] in told
    assert hooks["rival"].json()["id"] not in told


def test_how_long_the_queue_is_everybody_sees_but_not_whose_it_is(tenants: Tenants) -> None:
    own, others = (tenants.http.get("/v1/workers", headers=h).json()["queue"] for h in (tenants.acme, tenants.rival))
    assert own == others
    assert own["shards"] > 0


@pytest.mark.parametrize(("tenant", "mine"), [("acme", "imports/tenants/acme/a.png"), ("default", "imports/a.png")])
def test_a_tenant_has_its_own_folder_of_the_bucket(tenants: Tenants, tenant: str, mine: str) -> None:
    headers, theirs = tenants.key(tenant), "imports/tenants/rival/a.png"
    for key, status in ((mine, 202), (theirs, 422), ("imports/tenants/acmes/a.png", 422)):
        body: dict[str, Any] = {"name": "in-bucket", "format": "images", "root": "bucket", "path": key}
        assert tenants.http.post("/v1/datasets", json=body, headers=headers).status_code == status
        source = {"source": "object", "key": key}
        body = {"name": "of-bucket", "architecture": "cifar-resnet-small", "source": source}
        assert tenants.http.post("/v1/models", json=body, headers=headers).status_code == status
        targets: dict[str, Any] = {"source": "manifest", "key": key}
        assert tenants.http.post("/v1/jobs", json=inversion(targets=targets), headers=headers).status_code == status
    assert [places.is_readable(tenant, key) for key in (mine, theirs)] == [True, False]


def test_a_prefix_and_a_line_of_a_manifest_lead_into_no_other_folder(tenants: Tenants) -> None:
    context, keys = tenants.context, {"imports/tenants/acme/a.png", "imports/tenants/rival/b.png", "imports/c.png"}
    for key in keys:
        context.storage.put(key, IMAGE, "image/png")
    planner = BulkPlanner(context.db, context.storage, context.broker, context.catalog, context.settings, Event())
    lines = b"".join(b'{"key": "%s"}\n' % key.encode() for key in sorted(keys))
    found = {}
    for tenant in ("acme", "rival", "default"):
        headers = tenants.key(tenant)
        manifest = tenants.http.post("/v1/manifests", content=lines, headers=headers).json()["id"]
        sources = ({"source": "prefix", "prefix": "imports/"}, {"source": "manifest", "manifest": manifest})
        for source in sources:
            body = inversion(targets=source, on_invalid="skip")
            job_id = tenants.http.post("/v1/jobs", json=body, headers=headers).json()["id"]
            planner.plan()
            with context.db.reading() as session:
                targets = session.scalars(select(Item.target).where(Item.job_id == job_id)).all()
            found[tenant, source["source"]] = {t["key"] for t in targets if "key" in t}
    assert found == {
        (tenant, kind): {key}
        for tenant, key in zip(
            ("acme", "rival", "default"), [*sorted(keys - {"imports/c.png"}), "imports/c.png"], strict=True
        )
        for kind in ("prefix", "manifest")
    }
