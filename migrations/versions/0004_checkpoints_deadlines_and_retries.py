"""checkpoints of shards, deadlines, pauses between attempts

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

FAILED = sa.text("state = 'failed'")


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deadline", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("client", sa.String(length=64), nullable=True))
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.add_column(sa.Column("not_before", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("checkpoint", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("last", sa.Boolean(), server_default=sa.false(), nullable=False))
    with op.batch_alter_table("items", schema=None) as batch_op:
        batch_op.add_column(sa.Column("epoch", sa.BigInteger(), nullable=True))
        batch_op.create_index(
            "ix_items_failed", ["finished_at", "job_id", "index"], postgresql_where=FAILED, sqlite_where=FAILED
        )
    # The figure of a recipe, and what puts the runs of these kinds together, is their job's last shard.
    op.execute(
        "UPDATE shards SET last = true WHERE state = 'waiting' OR first_item = (SELECT jobs.items - 1 FROM jobs"
        " WHERE jobs.id = shards.job_id AND jobs.kind IN ('recipe', 'evaluation', 'activating_images'))"
    )


def downgrade() -> None:
    # What only the newer revision knows of is forgotten. Paused jobs would never go on, nor would what workers of the
    # older one let go of because its job was paused.
    op.execute(
        "UPDATE shards SET state = 'queued' WHERE state = 'cancelled' AND job_id IN"
        " (SELECT id FROM jobs WHERE state IN ('queued', 'running', 'paused')) AND id IN"
        " (SELECT shard_id FROM items WHERE state IN ('queued', 'running'))"
    )
    op.execute("UPDATE jobs SET state = 'queued' WHERE state = 'paused'")
    with op.batch_alter_table("items", schema=None) as batch_op:
        batch_op.drop_index("ix_items_failed", postgresql_where=FAILED, sqlite_where=FAILED)
        batch_op.drop_column("epoch")
    with op.batch_alter_table("shards", schema=None) as batch_op:
        batch_op.drop_column("last")
        batch_op.drop_column("checkpoint")
        batch_op.drop_column("not_before")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("client")
        batch_op.drop_column("deadline")
