"""Pages: together they are the list, whatever the texts by which it is ordered."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from service import cursors
from service.bulk_models import PlanError
from service.db import Database
from service.errors import InvalidInput
from tests.service.test_jobs import submit

FIELDS = ["", "a", "a|b", "c\nd|", "é", "|"]
ORDER = (PlanError.entry, PlanError.field)


@pytest.fixture
def errors(database: Database) -> Database:
    job_id, _ = submit(database)
    with database.transaction() as session:
        session.add_all(PlanError(job_id=job_id, entry=n, field=f, message="m") for n in (1, 2) for f in FIELDS)
    return database


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("limit", [1, 5, 12])
def test_pages_are_the_list(errors: Database, limit: int, newest: bool) -> None:
    found, cursor = [], None
    for _ in range(12 // limit + 1):
        with errors.reading() as session:
            page, cursor = cursors.page(session, select(PlanError), limit, cursor, *ORDER, newest=newest)
        assert 0 < len(page) <= limit
        found += [(row.entry, row.field) for row in page]
        if cursor is None:
            break
    with errors.reading() as session:
        rows = session.execute(select(*ORDER).order_by(*(c.desc() if newest else c for c in ORDER)))
        assert found == [tuple(row) for row in rows]
        assert len(found) == 12


@pytest.mark.parametrize("parts", [(), (1,), ("x", "y"), ("nan", "y"), (1, "\0"), (2**62, "y"), ("1.5", "y")])
def test_a_cursor_of_something_else_is_refused(errors: Database, parts: tuple[object, ...]) -> None:
    with errors.reading() as session, pytest.raises(InvalidInput, match="cursor"):
        cursors.page(session, select(PlanError), 1, cursors.encode_cursor(*parts), *ORDER)


@pytest.mark.parametrize("cursor", ["!", "\0", "é", "_w", "A"])
def test_what_is_no_cursor_is_refused_by_name(api: TestClient, cursor: str) -> None:
    for path in ("jobs", "webhooks", "dead-letters"):
        assert [e["field"] for e in api.get(f"/v1/{path}", params={"cursor": cursor}).json()["errors"]] == ["cursor"]
