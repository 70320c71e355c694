"""A load on an HTTP server over kept-alive connections, in as little processor time as asyncio can do it.

It runs as a process of its own, which reads what to do as JSON from its standard input and answers on its output:

    {"port": 8000, "requests": ["GET / HTTP/1.1\\r\\n..."], "connections": 32, "seconds": 5, "rate": null, "keep": null}

Each connection sends one request at a time. Without a `rate` the next one follows at once, which finds the most that
the server can do. With one, requests are due at even intervals whatever the server does, and a latency counts from when
its request was due: a server that stalls is not let off by a load that waits for it. `keep` is a regular expression:
what its first group finds in the answers' bodies is told, at most `MOST_KEPT` of them.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections import Counter, deque
from typing import Any

import uvloop

MOST_KEPT = 100_000
NUMBER = b"100000000000000001"
"""In a request: a number of 18 digits that becomes each request's own."""
END, LENGTH = b"\r\n\r\n", re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Load:
    """What all connections share: the requests, when each is due, and what came of them."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.requests: list[bytes] = [text.encode() for text in asked["requests"]]
        self.rate: float | None = asked.get("rate")
        self.keep = re.compile(asked["keep"].encode()) if asked.get("keep") else None
        self.begin = time.perf_counter()
        self.end = self.begin + asked["seconds"]
        self.due: deque[float] = deque()
        self.idle: list[Connection] = []
        self.latencies: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.kept: list[str] = []
        self.unsent = 0

    def request(self) -> bytes:
        """One of them, drawn; each `NUMBER` in it becomes another of as many digits."""
        chosen = random.choice(self.requests)
        return chosen.replace(NUMBER, b"%d" % random.randrange(10**17, 10**18)) if NUMBER in chosen else chosen

    def next(self, connection: "Connection") -> None:
        """Send the next request on a connection that is free, if one is due."""
        now = time.perf_counter()
        if self.rate is None and now < self.end:
            connection.send(now)
        elif self.due:
            connection.send(self.due.popleft())
        else:
            self.idle.append(connection)

    async def pace(self) -> None:
        """Until the end; then wait for what is under way, for 10 seconds."""
        sent = 0
        while (now := time.perf_counter()) < self.end:
            while self.rate and self.begin + sent / self.rate <= now:
                self.due.append(self.begin + sent / self.rate)
                sent += 1
            while self.due and self.idle:
                self.idle.pop().send(self.due.popleft())
            await asyncio.sleep(0.001 if self.rate else 0.1)

    def answered(self, status: str, body: bytes, seconds: float) -> None:
        self.latencies.append(seconds)
        self.statuses[status] += 1
        if self.keep and len(self.kept) < MOST_KEPT and (found := self.keep.search(body)):
            self.kept.append(found[1].decode())

    def report(self, seconds: float) -> dict[str, Any]:
        """Latencies in milliseconds."""
        found = sorted(self.latencies) or [float("nan")]
        at = {f"p{p}": 1000 * found[min(len(found) * p // 100, len(found) - 1)] for p in (50, 95, 99)}
        return {
            "requests": len(self.latencies), "per_second": len(self.latencies) / seconds, "statuses": self.statuses,
            **at, "max": 1000 * found[-1], "unanswered": len(self.due) + self.unsent, "kept": self.kept,
            "processor": time.process_time(),
        }  # fmt: skip


class Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self.load, self.buffer, self.since, self.busy = load, b"", 0.0, False
        self.transport: Any = None  # uvloop's are no asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.load.next(self)

    def send(self, since: float) -> None:
        self.since, self.busy = since, True
        self.transport.write(self.load.request())

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if (head := self.buffer.find(END)) < 0:
            return
        length = LENGTH.search(self.buffer, 0, head)
        size = head + len(END) + (int(length[1]) if length else 0)
        if len(self.buffer) < size:
            return
        status, body = self.buffer[9:12].decode(), self.buffer[head + len(END) : size]
        self.buffer, self.busy = self.buffer[size:], False
        self.load.answered(status, body, time.perf_counter() - self.since)
        self.load.next(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self.busy:
            self.load.unsent += 1
            self.load.statuses["lost"] += 1


async def drive(asked: dict[str, Any]) -> dict[str, Any]:
    load = Load(asked)
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(load), "127.0.0.1", asked["port"]))[1]
        for _ in range(asked["connections"])
    ]
    await load.pace()
    until = time.perf_counter() + 10
    while any(each.busy for each in connections) and time.perf_counter() < until:
        await asyncio.sleep(0.005)
    took = max(time.perf_counter(), load.end) - load.begin
    load.unsent = sum(each.busy for each in connections)
    for each in connections:
        each.busy = False
        each.transport.close()
    return load.report(took)


if __name__ == "__main__":
    json.dump(uvloop.run(drive(json.load(sys.stdin))), sys.stdout)
