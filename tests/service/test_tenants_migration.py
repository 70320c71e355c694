"""What was there before tenants is the default one's; and nothing of another becomes everybody's."""

import pytest
from sqlalchemy import inspect, select, text

from service.access.models import Tenant
from service.db import Database, downgrade, migrate
from service.models import Holding, Image, RegisteredModel

MODEL = "INSERT INTO models (name, digest, key, card, created_at) VALUES ('net', '1', 'k', '{}', 1)"
IMAGE = "INSERT INTO images VALUES ('sha256:1', 'k', 'image/png', 1, 1, 1, 1)"


def test_what_there_was_before_tenants_is_the_default_ones(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    downgrade(url, "0005")
    with database.engine.begin() as connection:
        connection.execute(text(MODEL))
        connection.execute(text(IMAGE))
    migrate(url)
    with database.reading() as session:
        assert session.scalars(select(Tenant.id)).all() == ["default"]
        assert session.scalars(select(RegisteredModel.tenant)).all() == ["default"]
        held = session.execute(select(Holding.tenant, Holding.kind, Holding.id)).all()
    assert [tuple(row) for row in held] == [("default", "images", "sha256:1")]


def test_a_downgrade_refuses_to_show_everybody_what_a_tenant_has(database: Database) -> None:
    url = database.url.render_as_string(hide_password=False)
    with database.engine.begin() as connection:
        connection.execute(text(MODEL))
        connection.execute(text("UPDATE models SET tenant = 'acme'"))
    with pytest.raises(RuntimeError, match="1 rows of models are of other tenants"):
        downgrade(url, "0005")
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE models SET tenant = 'default'"))
    downgrade(url, "0005")
    assert "tenants" not in inspect(database.engine).get_table_names()
    migrate(url)


def test_what_the_release_before_posts_once_there_are_tenants_is_the_default_ones(database: Database) -> None:
    """It writes no `holdings`: during an upgrade its processes post beside the new ones."""
    with database.engine.begin() as connection:
        connection.execute(text(IMAGE))
    for tenant, sees in (("default", ["sha256:1"]), ("acme", [])):
        with database.of(tenant).reading() as session:
            assert session.scalars(select(Image.id)).all() == sees
    with database.transaction() as session:
        session.add(Holding(tenant="acme", kind="images", id="sha256:1"))
    for tenant, sees in (("default", []), ("acme", ["sha256:1"])):
        with database.of(tenant).reading() as session:
            assert session.scalars(select(Image.id)).all() == sees
