"""A tenant's session comes at nothing of another's, however a statement is written; tests would notice if it did."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Table, delete, exists, func, insert, select, text, union, update
from sqlalchemy.orm import aliased

import service
from service.access import isolation
from service.access.isolation import Unnarrowed, own
from service.bulk_models import Label, Manifest, PendingUpload, Webhook
from service.db import Database
from service.models import (
    Base,
    Evaluation,
    Holding,
    Image,
    Item,
    Job,
    RegisteredDataset,
    RegisteredModel,
    Shard,
    Transition,
    Upload,
)
from tests.service.tenancy import Tenants
from tests.service.test_tenants import ABOUT, LISTS, PUBLIC
from tests.service.test_tenants import test_evaluations_of_a_shipped_network_are_told_to_who_made_them as evaluations
from tests.service.test_tenants import test_no_list_has_anything_of_another_tenant as lists
from tests.service.test_tenants import test_what_is_another_tenants_is_not_there as crosses

OF_NOBODY = {"tenants", "browser_sessions", "workers"}
"""Tables without tenants: a session of one asks for none of them but to be counted."""
OTHER = aliased(Job)
SEEN: list[Any] = [
    select(Job.id),
    select(OTHER.id),
    select(Job.id).where(Job.state != "x"),
    select(Item.job_id),
    select(Shard.job_id),
    select(Transition.job_id),
    select(Item.job_id).join(Job, Job.id == Item.job_id),
    select(Item.job_id).where(Item.job_id.in_(select(Job.id))),
    select(Job.id).where(exists().where(Item.job_id == Job.id)),
    select(OTHER.id).join(Job, Job.id != OTHER.id, isouter=True).distinct(),
    select(select(Job.id).subquery().c.id),
    select(select(Job.id).cte().c.id),
    select(union(select(Job.id), select(Item.job_id)).subquery().c.id),
    union(select(Job.id), select(Item.job_id)),
    select(Job.id).union_all(select(Item.job_id)),
    update(Job).values(description="x").returning(Job.id),
    update(Shard).values(attempts=1).returning(Shard.job_id),
    delete(Transition).returning(Transition.job_id),
]
COUNTS: list[Any] = [
    select(func.count()).select_from(Job),
    select(func.count(Item.index)),
    select(select(func.count()).select_from(Job).scalar_subquery()),
    select(select(func.count(Job.id)).scalar_subquery() + 0),
]
REFUSED: list[Any] = [
    text("SELECT id FROM jobs"),
    select(Job.__table__.c.id),
    select(func.count()).select_from(Job.__table__),
    update(cast(Table, Job.__table__)).values(description="x"),
    delete(cast(Table, Job.__table__)),
    func.count(Job.id),
    select(Job).from_statement(text("SELECT * FROM jobs")),
    insert(Transition).from_select(["job_id", "state", "at"], select(Job.id, Job.state, Job.created_at)),
]
RAW = re.compile(r"__table__|(?<!\.)\btext\(|\.connection\(\)|from_statement|metadata\.tables|\bEVERYBODY\b")
BY_HAND = {
    "access/isolation.py", "access/gate.py", "access/principal.py", "api/context.py", "api/session.py",
    "bulk_models.py", "db.py", "joblog.py", "limits.py", "models.py", "readiness.py", "reuse.py", "saving.py",
    "waiting.py",
}  # fmt: skip
"""Files that reach past the classes, or count what all have: each was looked at, and another has to be."""


def test_every_table_is_narrowed_or_known_to_be_of_nobody() -> None:
    free = {mapper.class_.__tablename__ for mapper in Base.registry.mappers if own(mapper.class_) is None}
    assert free == OF_NOBODY


def test_nothing_else_reaches_past_the_classes_that_are_narrowed() -> None:
    folder = Path(service.__file__).parent
    reach = {str(file.relative_to(folder)) for file in folder.rglob("*.py") if RAW.search(file.read_text())}
    assert reach == BY_HAND


@pytest.fixture
def two(database: Database) -> Database:
    """Each of two tenants has a job of its name, with an item, and knows of an image of its name."""
    with database.transaction() as session:
        for name in ("one", "two"):
            session.add(_job(name))
            session.flush()
            session.add(Shard(id=f"shard-{name}", job_id=name, first_item=0, item_count=1))
            session.flush()
            session.add(Item(job_id=name, index=0, shard_id=f"shard-{name}", target={}, start={}))
            session.add(Transition(job_id=name, state="queued", at=0.0))
            session.add(Label(job_id=name, key="k", value=name))
            session.add(Image(id=name, key="k", media_type="image/png", width=1, height=1, size=1, created_at=0.0))
            session.add(Holding(tenant=name, kind="images", id=name))
    return database


def _job(name: str) -> Job:
    return Job(id=name, tenant=name, kind="inversion", state="queued", parameters={}, warnings=[], items=1,
               created_at=0.0, request_digest="0" * 64)  # fmt: skip


@pytest.mark.parametrize("statement", SEEN, ids=[f"{n}" for n in range(len(SEEN))])
def test_a_statement_sees_and_changes_what_is_the_tenants(two: Database, statement: Any) -> None:
    for name in ("one", "two", "one"):
        with two.of(name).transaction() as session:
            found = set(session.execute(statement).scalars())
            session.rollback()
        assert found == {name}


@pytest.mark.parametrize("statement", COUNTS, ids=[f"{n}" for n in range(len(COUNTS))])
def test_a_statement_counts_what_is_the_tenants(two: Database, statement: Any) -> None:
    with two.of("one").reading() as session:
        assert session.scalar(statement) == 1
    with two.reading() as session:
        assert session.scalar(statement) == 2


@pytest.mark.parametrize("statement", REFUSED, ids=[f"{n}" for n in range(len(REFUSED))])
def test_a_statement_that_cannot_be_narrowed_is_refused(two: Database, statement: Any) -> None:
    with two.of("one").transaction() as session:
        for ask in (session.execute, session.scalars, session.scalar):
            with pytest.raises(Unnarrowed):
                ask(statement)


def test_an_update_of_rows_by_their_keys_is_refused(two: Database) -> None:
    with two.of("one").transaction() as session, pytest.raises(Unnarrowed):
        session.execute(update(Item), [{"job_id": "two", "index": 0, "state": "failed"}])


def test_rows_are_got_by_their_key_from_ones_own_only(two: Database) -> None:
    with two.of("one").reading() as session:
        assert session.get(Job, "two") is None
        assert session.get(Item, ("two", 0)) is None
        assert session.get(Image, "two") is None
        assert session.get(Job, "one") is not None
        assert session.get(Image, "one") is not None
        assert session.scalar(select(exists().where(Image.id == "two"))) is False
        assert session.scalar(select(exists().where(Image.id == "one"))) is True


def test_what_a_session_adds_is_its_tenants_whatever_it_says(two: Database) -> None:
    with two.of("one").transaction() as session:
        job = _job("three")
        job.tenant = "two"
        session.add(job)
    with two.of("two").reading() as session:
        assert session.get(Job, "three") is None


def test_sessions_beside_each_other_and_in_threads_keep_to_their_tenants(two: Database) -> None:
    with two.of("one").reading() as session, two.of("two").reading() as other:
        for each, name in ((session, "one"), (other, "two"), (session, "one")):
            assert each.scalars(select(Job.id)).all() == [name]

    def many(name: str) -> set[str]:
        found = set()
        for _ in range(50):
            with two.of(name).reading() as session:
                found |= set(session.scalars(select(Item.job_id)))
        return found

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(many, ["one", "two"] * 4)) == [{"one"}, {"two"}] * 4


def _found(tenants: Tenants, changing: bool) -> set[str]:
    """Operations by which the tests of crossing come at something of another tenant; what removes it comes last."""
    found = set()
    try:
        evaluations(tenants)
    except AssertionError:
        found.add("get /v1/models/{name}/evaluations")
    for method, path in sorted(ABOUT, key=lambda operation: operation[0] == "delete"):
        if (method != "get" and not changing) or path.endswith("/events"):  # a stream of another's would not end
            continue
        try:
            crosses(tenants, method, path)
        except AssertionError:
            found.add(f"{method} {path}")
    for path in sorted({*LISTS} - PUBLIC):
        try:
            lists(tenants, path)
        except AssertionError:
            found.add(f"get {path}")
    return found


class _Without(isolation._Narrowing):
    """Narrows everything but these classes. Each of its subclasses is another to the cache of statements."""

    but: tuple[type, ...] = ()

    def get_global_criteria(self, attributes: dict[str, Any]) -> None:
        for each in isolation._criteria():
            if each.entity is not None and not issubclass(each.entity.mapper.class_, self.but):
                each.get_global_criteria(attributes)


MUTANTS: dict[str, tuple[tuple[type, ...], str]] = {
    "nothing": ((), ""),
    "networks": ((RegisteredModel,), "get /v1/models/{name}"),
    "data sets": ((RegisteredDataset,), "get /v1/datasets/{name}"),
    "uploads to come": ((PendingUpload,), "get /v1/uploads/{upload_id}"),
    "webhooks": ((Webhook,), "get /v1/webhooks"),
    "manifests": ((Manifest,), "get /v1/manifests/{manifest_id}"),
    "images": ((Image,), "get /v1/images/{image_id}"),
    "uploads": ((Upload,), "get /v1/checkpoints/{upload_id}"),
    "evaluations": ((Evaluation,), "get /v1/models/{name}/evaluations"),
    "jobs": ((Job,), "get /v1/jobs"),
    "everything": ((object,), "delete /v1/jobs/{job_id}"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tests_of_crossing_notice_what_is_not_narrowed(
    tenants: Tenants, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    but, noticed = MUTANTS[name]
    another = type(f"_Without_{name}", (_Without,), {"but": but, "__slots__": (), "_traverse_internals": []})
    monkeypatch.setattr(isolation, "NARROWING", another())
    found = _found(tenants, changing=name in ("nothing", "everything"))
    assert (noticed in found) if noticed else found == set()
