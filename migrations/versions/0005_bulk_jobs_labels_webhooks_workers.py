"""bulk planning, labels, retention, result shards, uploads by URL, webhooks, workers, logs

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DELETED = sa.text("deleted_at IS NOT NULL")
KNOWN = sa.text("digest IS NOT NULL")
KEPT_FOR = sa.text("retention_seconds IS NOT NULL AND deleted_at IS NULL")
UNDELIVERED = sa.text("delivered_at IS NULL AND failed_at IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.BigInteger(), server_default="1", nullable=False))
        batch_op.add_column(sa.Column("description", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("metadata", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("request", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("text", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("retention_seconds", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("deleted_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("cloned_from", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("counts", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("purged_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("summary", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("stamp", sa.BigInteger(), server_default="0", nullable=False))
        batch_op.create_index("ix_jobs_kind_created_at", ["kind", "created_at"])
        batch_op.create_index("ix_jobs_deleted", ["deleted_at"], postgresql_where=DELETED, sqlite_where=DELETED)
        batch_op.create_index("ix_jobs_retention", ["finished_at"], postgresql_where=KEPT_FOR, sqlite_where=KEPT_FOR)
    with op.batch_alter_table("items", schema=None) as batch_op:
        batch_op.add_column(sa.Column("digest", sa.String(length=32), nullable=True))
        batch_op.create_index("ix_items_digest", ["digest"], postgresql_where=KNOWN, sqlite_where=KNOWN)
        batch_op.create_index("ix_items_job_id_state_index", ["job_id", "state", "index"])
        batch_op.drop_index("ix_items_job_id_state")
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("offset", sa.BigInteger(), nullable=True))
    # A study's priority was one of its parameters.
    priority, model = (
        f"parameters ->> '{name}'"
        if op.get_bind().dialect.name == "postgresql"
        else f"json_extract(parameters, '$.{name}')"
        for name in ("priority", "model")
    )
    op.execute(
        f"UPDATE jobs SET priority = CASE {priority} WHEN 'low' THEN 0 WHEN 'high' THEN 2 ELSE 1 END,"
        f" text = lower(id || ' ' || kind || ' ' || coalesce({model}, ''))"
    )
    op.create_table(
        "manifests",
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_manifests"),
    )
    op.create_table(
        "pending_uploads",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("result", sa.String(length=71), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pending_uploads"),
    )
    op.create_index("ix_pending_uploads_expires_at", "pending_uploads", ["expires_at"])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secrets", sa.JSON(), nullable=False),
        sa.Column("events", sa.JSON(), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("client", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("disabled_at", sa.Double(), nullable=True),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("info", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_index("ix_workers_seen_at", "workers", ["seen_at"])
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("webhook_id", sa.String(length=40), nullable=False),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("delivered_at", sa.Double(), nullable=True),
        sa.Column("failed_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["webhook_id", "next_at"],
        postgresql_where=UNDELIVERED,
        sqlite_where=UNDELIVERED,
    )
    op.create_index("ix_deliveries_webhook_id_created_at", "deliveries", ["webhook_id", "created_at"])
    op.create_index("ix_deliveries_created_at", "deliveries", ["created_at"])
    op.create_index("ix_deliveries_job_id", "deliveries", ["job_id"])
    op.create_table(
        "labels",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_labels_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "key", name="pk_labels"),
    )
    op.create_index("ix_labels_key_value_job_id", "labels", ["key", "value", "job_id"])
    op.create_table(
        "log_lines",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("level", sa.String(length=10), nullable=False),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_log_lines_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_log_lines"),
    )
    op.create_index("ix_log_lines_job_id_id", "log_lines", ["job_id", "id"])
    op.create_table(
        "plan_errors",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("entry", sa.BigInteger(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_plan_errors_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "entry", "field", name="pk_plan_errors"),
    )
    op.create_table(
        "plannings",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("shards", sa.BigInteger(), nullable=False),
        sa.Column("reused", sa.BigInteger(), nullable=False),
        sa.Column("invalid", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.String(length=40), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_plannings_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name="pk_plannings"),
    )
    op.create_table(
        "result_shards",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("first_item", sa.BigInteger(), nullable=False),
        sa.Column("items", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_result_shards_job_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key", name="pk_result_shards"),
    )
    op.create_index("ix_result_shards_job_id", "result_shards", ["job_id"])
    op.create_table(
        "reuses",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("source_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_reuses_job_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["source_id"], ["jobs.id"], name="fk_reuses_source_id"),
        sa.PrimaryKeyConstraint("job_id", "source_id", name="pk_reuses"),
    )
    op.create_index("ix_reuses_source_id", "reuses", ["source_id"])


def downgrade() -> None:
    # What only the newer revision knows of is forgotten: what was deleted but not yet removed would come back, and jobs
    # that were still being planned would never begin.
    op.drop_table("reuses")
    deleted = "(SELECT id FROM jobs WHERE deleted_at IS NOT NULL)"
    for table in (
        "artifacts",
        "items",
        "shards",
        "transitions",
        "epochs",
        "evaluations",
    ):  # SQLite does not cascade here
        op.execute(f"DELETE FROM {table} WHERE job_id IN {deleted}")
    for table in ("models", "datasets"):
        op.execute(f"UPDATE {table} SET job_id = NULL WHERE job_id IN {deleted}")
    op.execute("DELETE FROM jobs WHERE deleted_at IS NOT NULL")
    op.execute("UPDATE jobs SET state = 'failed' WHERE state = 'validating'")
    # A file within a tar cannot be told from the whole of it.
    op.execute('DELETE FROM artifacts WHERE "offset" IS NOT NULL')
    for table in (
        "result_shards",
        "plannings",
        "plan_errors",
        "log_lines",
        "labels",
        "deliveries",
        "workers",
        "webhooks",
        "pending_uploads",
        "manifests",
    ):
        op.drop_table(table)
    with op.batch_alter_table("artifacts", schema=None) as batch_op:
        batch_op.drop_column("offset")
    with op.batch_alter_table("items", schema=None) as batch_op:
        batch_op.create_index("ix_items_job_id_state", ["job_id", "state"])
        batch_op.drop_index("ix_items_job_id_state_index")
        batch_op.drop_index("ix_items_digest", postgresql_where=KNOWN, sqlite_where=KNOWN)
        batch_op.drop_column("digest")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_kind_created_at")
        batch_op.drop_index("ix_jobs_retention", postgresql_where=KEPT_FOR, sqlite_where=KEPT_FOR)
        batch_op.drop_index("ix_jobs_deleted", postgresql_where=DELETED, sqlite_where=DELETED)
        for column in (
            "stamp",
            "summary",
            "purged_at",
            "counts",
            "cloned_from",
            "deleted_at",
            "retention_seconds",
            "text",
            "request",
            "metadata",
            "description",
            "priority",
        ):
            batch_op.drop_column(column)
