"""A job's event stream, put together again where it breaks, and polling at a sensible pace."""

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2

from service.remote.transport import ApiError, Transport, document

LONGEST_PAUSE = 5.0
"""Seconds between two polls, and before a broken stream is tried again, at most."""

SILENCE = 45.0
"""Seconds without a byte after which a stream counts as broken; the API sends something every 15."""


class Event(NamedTuple):
    """`state` (with the id to go on from), `progress`, or `end`, and its data."""

    event: str
    data: dict[str, Any]
    id: str


def events(transport: Transport, job_id: str, last_id: str = "", patience: float = 60) -> Iterator[Event]:
    """Every event since `last_id`, to the end of the job; states none of which is missed or comes twice.

    Raises ApiError, or httpx2.TransportError once the API has been away for `patience` seconds.
    """
    lost = None
    while True:
        try:
            for event in _stream(transport, job_id, last_id):
                lost, last_id = None, event.id or last_id
                yield event
                if event.event == "end":
                    return
            wait = 0.5  # the server closed without an end: it goes down
        except ApiError as e:
            if e.retry_after is None:
                raise
            wait = e.retry_after
        except httpx2.TransportError:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > patience:
                raise
            wait = 0.5
        time.sleep(min(wait, LONGEST_PAUSE))


def _stream(transport: Transport, job_id: str, last_id: str) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
    timeout = httpx2.Timeout(30, read=SILENCE)
    with transport.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=timeout) as response:
        if response.status_code == 204:  # the end that `last_id` is of still stands
            yield Event("end", {"job": job_id}, last_id)
            return
        for each in httpx2.EventSource(response):
            yield Event(each.event, json.loads(each.data or "{}"), each.id)


class Poll:
    """A resource that is asked for again and again: the API sends it only where it changed."""

    def __init__(self, transport: Transport, path: str) -> None:
        self._transport, self._path = transport, path
        self._etag = ""
        self._last: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """What it is now."""
        headers = {"If-None-Match": self._etag} if self._etag else {}
        response = self._transport.request("GET", self._path, headers=headers)
        if response.status_code != 304:
            self._etag, self._last = response.headers.get("etag", ""), document(response)
        return self._last


def pauses(interval: float) -> Iterator[float]:
    """Seconds between polls: `interval`, rising so that an end is seen late by a tenth of the time, or 5 s."""
    begun = time.monotonic()
    while True:
        yield min(max(interval, (time.monotonic() - begun) / 10), max(interval, LONGEST_PAUSE))
