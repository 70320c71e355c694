"""jobs that are parts of a recipe, shards that wait for other jobs, settings of an item

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SHARD_STATES = "'queued', 'running', 'done', 'cancelled'"


def set_shard_states(states: str) -> None:
    with op.batch_alter_table("shards") as batch_op:
        batch_op.drop_constraint(batch_op.f("ck_shards_state"), type_="check")
        batch_op.create_check_constraint(batch_op.f("ck_shards_state"), f"state IN ({states})")


def upgrade() -> None:
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.add_column(sa.Column("parent_id", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("part", sa.String(length=100), nullable=True))
        batch_op.create_index(batch_op.f("ix_jobs_parent_id"), ["parent_id"], unique=False)
        batch_op.create_foreign_key(batch_op.f("fk_jobs_parent_id"), "jobs", ["parent_id"], ["id"], ondelete="CASCADE")
    set_shard_states(f"'waiting', {SHARD_STATES}")
    op.add_column("items", sa.Column("settings", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.execute("UPDATE shards SET state = 'cancelled' WHERE state = 'waiting'")
    op.drop_column("items", "settings")
    set_shard_states(SHARD_STATES)
    with op.batch_alter_table("jobs") as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_jobs_parent_id"), type_="foreignkey")
        batch_op.drop_index(batch_op.f("ix_jobs_parent_id"))
        batch_op.drop_column("part")
        batch_op.drop_column("parent_id")
