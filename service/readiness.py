"""What the API and the workers need of servers, and whether it is there."""

from collections.abc import Callable, Collection, Mapping
from functools import cache

import structlog
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.exc import SQLAlchemyError

from service.broker import Broker
from service.db import Database, alembic_config
from service.storage import Storage, StorageError

OK, UNREACHABLE, UNKNOWN = "ok", "unreachable", "unknown"
BEHIND, NEWER = "behind: run `robustreps migrate`", "newer"
"""A schema that lacks something, and one that has more than this version knows of: during an upgrade, old workers go on
with that."""
WORKS = (OK, NEWER)
log = structlog.get_logger()


def of_servers(db: Database, storage: Storage, broker: Broker) -> dict[str, str]:
    """The state of each, by name."""
    found = {"database": UNREACHABLE, "schema": UNKNOWN}
    try:
        found |= {"schema": schema(db), "database": OK}
    except (SQLAlchemyError, OSError) as e:
        log.warning("not ready", part="database", reason=str(e))
    return found | {"storage": _outcome("storage", storage.check), "broker": _outcome("broker", broker.depth)}


def ready(found: Mapping[str, str], but: Collection[str] = ()) -> bool:
    """Whether everything works, `but` for what may be away."""
    return all(state in WORKS for part, state in found.items() if part not in but)


def schema(db: Database) -> str:
    """Whether the database has been migrated to this version. Raises sqlalchemy.exc.SQLAlchemyError."""
    with db.reading() as session:
        at = MigrationContext.configure(session.connection()).get_current_revision()
    known, head = _revisions()
    return OK if at == head else BEHIND if at is None or at in known else NEWER


@cache
def _revisions() -> tuple[frozenset[str], str | None]:
    """Those that this version knows of, and the last of them."""
    scripts = ScriptDirectory.from_config(alembic_config("sqlite://"))
    return frozenset(script.revision for script in scripts.walk_revisions()), scripts.get_current_head()


def _outcome(name: str, check: Callable[[], object]) -> str:
    try:
        check()
    except (StorageError, BrokerError, OSError) as e:
        log.warning("not ready", part=name, reason=str(e))
        return UNREACHABLE
    return OK
