"""The Celery app, by name only: the service sends a shard's id, and knows nothing of what computes it.

A message is a wake-up. The database holds the work; the reconciler sends again what the broker lost. There is a queue
for each priority, and workers take nothing from one while a more urgent one has a message.
"""

import queue
import ssl
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError
from kombu.utils.uuid import uuid
from redis.exceptions import RedisError

from service import metrics
from service.batches import gather
from service.settings import Settings

TASK = "robustreps.run_shard"
NORMAL = 1
BEFORE = -1
QUEUES = {2: "shards-high", NORMAL: "shards-normal", 0: "shards-low", BEFORE: "shards"}
"""By priority, the most urgent first; the last is the only one that workers of the version before this one know."""
AT_ONCE = 256
"""Messages that are sent together, if so many wait."""
MOST_WAITING = 10_000
"""Messages that a process holds while the broker is away; the reconciler sends for the others when it is back."""
log = structlog.get_logger()


def celery_app(settings: Settings) -> Celery:
    """Acknowledged early, since the lease is the real acknowledgement; no results, no prefetch, JSON only."""
    url = "memory://localhost" if settings.embedded else settings.broker_url
    app = Celery("robustreps", broker=url, set_as_current=False)
    if settings.embedded:
        app.conf.broker_transport = "service.memory_broker:Transport"
    transport = {"polling_interval": 0.01} if settings.embedded else {
        "socket_timeout": 10, "socket_connect_timeout": 5, "socket_keepalive": True, "health_check_interval": 25,
        "queue_order_strategy": "priority",
    }  # fmt: skip
    if url.startswith("rediss:"):
        app.conf.broker_use_ssl = secured(settings)
    app.conf.update(
        task_ignore_result=True, task_acks_late=False, task_default_queue=QUEUES[NORMAL], task_serializer="json",
        accept_content=["json"], worker_disable_prefetch=not settings.embedded, worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False, worker_send_task_events=False, worker_enable_remote_control=False,
        broker_connection_max_retries=None, broker_connection_retry_on_startup=True,
        broker_transport_options=transport, worker_cancel_long_running_tasks_on_connection_loss=False,
    )  # fmt: skip
    return app


def secured(settings: Settings) -> dict[str, Any]:
    """TLS to the broker: its certificate is always checked, with its name. Settings refuses other URLs."""
    files = {"ca_certs": settings.broker_ca, "certfile": settings.broker_cert, "keyfile": settings.broker_key}
    given = {f"ssl_{name}": str(path) for name, path in files.items() if path}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **given}


class Broker:
    """Sends wake-ups from a thread of its own, so that no request waits for the broker."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._ids: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._overflowed = self._closed = False
        self._thread = threading.Thread(target=self._run, name="broker", daemon=True)
        self._thread.start()

    def enqueue(self, shard_ids: Iterable[str], priority: int = NORMAL) -> None:
        """Send soon, at best once, for shards of jobs of this priority: call it after the commit."""
        for shard_id in shard_ids:
            if self._ids.qsize() < MOST_WAITING:
                self._ids.put((shard_id, priority))
            elif not self._overflowed:
                self._overflowed = True
                log.warning("too many messages wait to be sent; the reconciler will send the others")

    def send(self, *waiting: tuple[str, int]) -> None:
        """Send now, for shards and the priorities of their jobs, in one exchange with the broker.

        Raises kombu.exceptions.OperationalError when it cannot be reached.
        """
        try:
            with self.app.producer_or_acquire() as producer, producer.batch(AT_ONCE):
                for shard_id, priority in waiting:  # as `send_task` does in twice the time
                    message = self.app.amqp.create_task_message(uuid(), TASK, args=[shard_id], ignore_result=True)
                    producer.publish(
                        message.body, exchange="", routing_key=QUEUES[priority], serializer="json",
                        headers=message.headers, **message.properties,
                    )  # fmt: skip
        except KombuError as e:
            raise OperationalError(str(e)) from e
        metrics.SENT.inc(len(waiting))

    def depth(self, priority: int = NORMAL) -> int:
        """Messages of this priority that no worker has taken. Raises kombu.exceptions.OperationalError."""
        try:
            with self.app.connection_for_read() as connection:
                connection.ensure_connection(max_retries=1, timeout=5)
                channel: Any = connection.channel()
                with channel:
                    return int(channel.queue_declare(QUEUES[priority], durable=True, auto_delete=False).message_count)
        except RedisError as e:  # kombu lets these through between connecting and asking
            raise OperationalError(str(e)) from e

    def close(self) -> None:
        """Send what is waiting and stop; a message not sent in 5 seconds is left to the reconciler."""
        self._ids.put(None)
        self._thread.join(5)
        self._closed = True

    def _run(self) -> None:
        while (waiting := gather(self._ids, AT_ONCE)) and not self._closed:
            try:
                self._send_again(waiting)
            except OperationalError as e:
                metrics.BROKER_ERRORS.inc()
                log.warning("messages not sent; the reconciler will", shards=len(waiting), reason=str(e))
            except Exception:  # the reconciler sends through this thread too, so nothing may end it
                log.exception("messages not sent; the reconciler will", shards=len(waiting))
            self._overflowed = self._overflowed and not self._ids.empty()

    def _send_again(self, waiting: Sequence[tuple[str, int]]) -> None:
        try:
            self.send(*waiting)
        except OperationalError:  # the connection may have died since it was used last; what comes twice does no harm
            self.send(*waiting)
