"""tenants, and their keys; whose jobs, networks, data sets, webhooks and uploads are

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OWNED = ("jobs", "models", "datasets", "webhooks", "pending_uploads")
POSTED = ("images", "uploads", "manifests")
CLOCK = {
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
}


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("quotas", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("tenant", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("last_used_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("rotated_from", sa.String(length=12), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name="fk_api_keys_tenant"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_tenant", "api_keys", ["tenant"])
    op.create_table(
        "browser_sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=12), nullable=False),
        sa.Column("once", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_browser_sessions_key_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hash", name="pk_browser_sessions"),
    )
    op.create_index("ix_browser_sessions_key_id", "browser_sessions", ["key_id"])
    op.create_index("ix_browser_sessions_expires_at", "browser_sessions", ["expires_at"])
    op.create_table(
        "holdings",
        sa.Column("tenant", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "kind", "id", name="pk_holdings"),
    )
    op.create_index("ix_holdings_kind_id", "holdings", ["kind", "id"])
    clock = CLOCK[op.get_bind().dialect.name]
    op.execute(f"INSERT INTO tenants (id, name, quotas, created_at) VALUES ('default', 'default', '{{}}', {clock})")
    for table in POSTED:
        op.execute(f"INSERT INTO holdings (tenant, kind, id) SELECT 'default', '{table}', id FROM {table}")
    for table in OWNED:
        op.add_column(table, sa.Column("tenant", sa.String(length=40), server_default="default", nullable=False))


def downgrade() -> None:
    # Without tenants everybody would see everything: what others than the default one have must be moved or deleted first.
    for table in OWNED:
        others = op.get_bind().scalar(sa.text(f"SELECT count(*) FROM {table} WHERE tenant <> 'default'"))
        if others:
            raise RuntimeError(f"{others} rows of {table} are of other tenants than the default one; remove them first")
    for table in OWNED:
        op.execute(f"ALTER TABLE {table} DROP COLUMN tenant")  # not by Alembic's copy, which would lose the CHECKs
    for table in ("holdings", "browser_sessions", "api_keys", "tenants"):
        op.drop_table(table)
