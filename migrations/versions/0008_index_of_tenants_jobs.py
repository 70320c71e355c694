"""jobs of a tenant by when they were created, beside a service that goes on

Revision ID: 0008
Revises: 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

NAME, COLUMNS = "ix_jobs_tenant_created_at_id", ["tenant", "created_at", "id"]


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        op.create_index(NAME, "jobs", COLUMNS)
        return
    with op.get_context().autocommit_block():  # as it must be for an index that keeps nobody from the table
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {NAME}")  # half of one, if that was broken off
        op.create_index(NAME, "jobs", COLUMNS, postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index(NAME, "jobs")
