"""How a service does, on one screen: its servers, its queue, its workers, what failed and what is to be removed."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import counting, fleet, readiness
from service.broker import BEFORE, QUEUES, Broker, celery_app
from service.bulk_models import Webhook
from service.db import Database
from service.metrics import PRIORITIES
from service.models import Item, Job
from service.settings import Settings
from service.states import ItemState, JobState, ShardState
from service.storage import open_storage

STATES = (ShardState.QUEUED, ShardState.RUNNING, ShardState.WAITING, counting.PAUSED)


def read(settings: Settings) -> dict[str, Any]:
    """All of it as JSON; `works` says whether every server does. What cannot be asked is left out."""
    with closing(Database(settings.database)) as db, closing(Broker(celery_app(settings))) as broker:
        servers = readiness.of_servers(db, open_storage(settings), broker)
        found: dict[str, Any] = {
            "works": readiness.ready(servers), "servers": servers,
            "at": {"database": settings.database_shown, "storage": settings.storage},
        }  # fmt: skip
        if servers["broker"] == readiness.OK and not settings.embedded:  # memory:// is another process's
            found["messages"] = _messages(broker)
        if servers["schema"] in readiness.WORKS:
            with db.reading() as session:
                found |= _rows(session)
    return found


def _messages(broker: Broker) -> dict[str, int]:
    try:
        return {name: broker.depth(priority) for priority, name in QUEUES.items() if priority != BEFORE}
    except BrokerError:
        return {}


def _rows(session: Session) -> dict[str, Any]:
    queue = counting.queue(session)
    failed = select(func.count(), func.count(Item.job_id.distinct())).join(Job, Job.id == Item.job_id)
    items, jobs = session.execute(failed.where(Item.state == ItemState.FAILED, Job.deleted_at.is_(None))).one()
    deleted = select(func.count()).where(Job.deleted_at.is_not(None), Job.purged_at.is_(None))
    return {
        "jobs": {state.value: queue.jobs[state] for state in JobState if queue.jobs[state]},
        "shards": {str(state): _sum(queue.shards, state) for state in STATES},
        "items": {str(state): _sum(queue.items, state) for state in STATES},
        "oldest_seconds": {name: round(queue.oldest.get(n, 0.0)) for n, name in enumerate(PRIORITIES)},
        "workers": [
            {"id": each.id, "state": each.state, "shards": len(each.shards), "threads": each.threads}
            for each in fleet.workers(session)
            if each.state != "ended"
        ],
        "failed": {"items": items, "jobs": jobs},
        "deliveries": {"pending": queue.deliveries, "overdue_seconds": round(queue.overdue)},
        "disabled_webhooks": session.scalar(select(func.count()).where(Webhook.disabled_at.is_not(None))) or 0,
        "to_remove": session.scalar(deleted) or 0,
    }  # fmt: skip


def _sum(counts: Any, state: str) -> int:
    return sum(n for (of, _), n in counts.items() if of == state)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """For people."""
    for part, state in found["servers"].items():
        yield f"{part:<10} {state:<12} {found['at'].get(part, '')}".rstrip()
    if "messages" in found:
        yield f"{'messages':<10} {_listed(found['messages'])}"
    if "shards" not in found:
        return
    yield f"{'jobs':<10} {_listed(found['jobs'])}"
    yield f"{'shards':<10} {_listed(found['shards'])}"
    yield f"{'items':<10} {_listed(found['items'])}"
    yield f"{'oldest':<10} {_listed({name: f'{s:,} s' for name, s in found['oldest_seconds'].items() if s})}"
    alive = [each for each in found["workers"] if each["state"] == "alive"]
    yield f"{'workers':<10} {len(alive)} alive, {sum(each['threads'] for each in alive)} threads"
    for each in found["workers"]:
        yield f"  {each['id']:<30} {each['state']:<7} {each['shards']} of {each['threads']} shards"
    yield f"{'failed':<10} {found['failed']['items']:,} items of {found['failed']['jobs']:,} jobs"
    told = found["deliveries"]
    yield f"{'webhooks':<10} {told['pending']:,} deliveries wait, {told['overdue_seconds']:,} s overdue"
    yield f"{'disabled':<10} {found['disabled_webhooks']} webhooks"
    yield f"{'deleted':<10} {found['to_remove']:,} jobs whose objects are still to be removed"


def _listed(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {n:,}" if isinstance(n, int) else f"{name} {n}" for name, n in counts.items()) or "none"
