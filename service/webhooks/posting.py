"""One POST to an address that was checked, under one deadline whatever the other side does."""

import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import httpcore2
import httpx2

AGENT = "robustreps-webhooks/1"
SECONDS = 15.0
ANSWER_BYTES = 4096
"""How much of an answer is read; nothing of it is kept."""
FAULTS = (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError, OSError)


class Answer(NamedTuple):
    """How an attempt ended: the status, if there was one, and what was wrong, if anything was."""

    status: int | None
    error: str | None


class _Stream(httpcore2.NetworkStream):
    """A connection on which everything together takes until `end`, on the monotonic clock."""

    def __init__(self, inner: httpcore2.NetworkStream, end: float) -> None:
        self._inner, self._end = inner, end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, _left(self._end))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, _left(self._end))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, _left(self._end)), self._end)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Pinned(httpcore2.NetworkBackend):
    """Connects to one of `addresses`, whatever the host: a name that is looked up again may lead elsewhere."""

    def __init__(self, addresses: Sequence[str], end: float) -> None:
        self._addresses, self._end, self._tcp = addresses, end, httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        for address in self._addresses[:-1]:
            try:
                share = _left(self._end) / 2  # one that does not answer leaves time for the next
                return _Stream(self._tcp.connect_tcp(address, port, share, local_address, socket_options), self._end)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        last = self._tcp.connect_tcp(self._addresses[-1], port, _left(self._end), local_address, socket_options)
        return _Stream(last, self._end)


def _left(end: float) -> float:
    if (left := end - time.monotonic()) <= 0:
        raise httpcore2.ReadTimeout("no time is left")
    return left


def post(
    url: httpx2.URL,
    addresses: Sequence[str],
    headers: Mapping[str, str],
    body: str,
    context: ssl.SSLContext,
    seconds: float = SECONDS,
) -> Answer:
    """Send `body` to `url` at one of these addresses; follows no redirect, and raises nothing for what is out there."""
    target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    ours = {"Host": url.netloc.decode("ascii"), "Content-Type": "application/json", "User-Agent": AGENT}
    backend = _Pinned(addresses, time.monotonic() + seconds)
    try:
        with (
            httpcore2.ConnectionPool(context, network_backend=backend) as pool,
            pool.stream("POST", target, headers=[*ours.items(), *headers.items()], content=body.encode()) as response,
        ):
            _read_some(response)
    except httpcore2.TimeoutException:
        return Answer(None, f"no answer within {seconds:g} seconds")
    except FAULTS as e:
        return Answer(None, str(e) or type(e).__name__)
    if 200 <= response.status < 300:
        return Answer(response.status, None)
    redirects = "; redirects are not followed" if 300 <= response.status < 400 else ""
    return Answer(response.status, f"answered {response.status}{redirects}")


def _read_some(response: httpcore2.Response) -> None:
    """Let the other side finish its answer, within bounds; whatever happens then, its status is known."""
    size = 0
    with suppress(*FAULTS):
        for chunk in response.iter_stream():
            size += len(chunk)
            if size >= ANSWER_BYTES:
                return
