"""checkpoints of items, epochs, evaluations, uploads, registered models and data sets

Revision ID: 0003
Revises: 0002
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def registered(table: str, *columns: sa.Column[Any]) -> None:
    op.create_table(
        table,
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        *columns,
        sa.Column("card", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f(f"pk_{table}")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f(f"fk_{table}_job_id"), ondelete="SET NULL"),
    )


def upgrade() -> None:
    op.add_column("items", sa.Column("checkpoint", sa.JSON(), nullable=True))
    registered("models", sa.Column("key", sa.Text(), nullable=False))
    op.create_index(op.f("ix_models_digest"), "models", ["digest"])
    registered("datasets", sa.Column("location", sa.JSON(), nullable=False))
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=71), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
    )
    op.create_table(
        "epochs",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", "epoch", name=op.f("pk_epochs")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_epochs_job_id"), ondelete="CASCADE"),
    )
    op.create_table(
        "evaluations",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("dataset", sa.String(length=100), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_evaluations")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_evaluations_job_id"), ondelete="CASCADE"),
    )
    op.create_index(op.f("ix_evaluations_model_digest"), "evaluations", ["model_digest"])


def downgrade() -> None:
    for table in ("evaluations", "epochs", "uploads", "datasets", "models"):
        op.drop_table(table)
    op.drop_column("items", "checkpoint")
