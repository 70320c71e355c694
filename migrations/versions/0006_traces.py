"""A job keeps the trace of the request that made it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("trace", sa.String(length=60), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "trace")
