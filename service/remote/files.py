"""Files from the API to the disk: checked by their digests, and gone on with where they broke off."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from service.remote.transport import Transport

T = TypeVar("T")
R = TypeVar("R")
THREADS = 8


class DigestError(RuntimeError):
    """What was downloaded, twice, is not what the job stored."""


def parallel(call: Callable[[T], R], values: Iterable[T], threads: int = THREADS) -> Iterator[R]:
    """`call` of each value, in order, several at a time; what is not asked for is not fetched."""
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                running.append(pool.submit(call, value))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for each in running:
                each.cancel()


def fetch(transport: Transport, found: dict[str, Any]) -> bytes:
    """An artifact's bytes. Raises DigestError if they are not what its digest says, twice."""
    for _ in range(2):
        data = transport.request("GET", found["url"]).content
        if hashlib.sha256(data).hexdigest() == found["sha256"]:
            return data
    raise _differs(found)


def download(transport: Transport, found: dict[str, Any], path: Path) -> None:
    """Anything with a url, a size and a digest to a file, unless it is there, whole.

    What came of it before a break is kept beside it, as .part, and gone on with. Raises DigestError.
    """
    if path.exists() and path.stat().st_size == found["size"] and digest(path) == found["sha256"]:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for again in (True, False):
        try:
            _go_on(transport, found, part)
        except httpx2.TransportError:
            if again:
                continue
            raise
        if digest(part) == found["sha256"]:
            part.replace(path)
            return
        part.unlink()
    raise _differs(found)


def _go_on(transport: Transport, found: dict[str, Any], part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have and have >= found["size"]:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with transport.stream("GET", found["url"], headers=headers) as response:
        write(response, part, "ab" if response.status_code == 206 else "wb")


def write(response: httpx2.Response, path: Path, mode: str = "wb") -> None:
    """What comes, as it comes, to a file. Raises httpx2.TransportError where it breaks off."""
    with path.open(mode) as file:
        for piece in response.iter_bytes():
            file.write(piece)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differs(found: dict[str, Any]) -> DigestError:
    return DigestError(f"{found['url']} is not what the job stored: its digest differs")
