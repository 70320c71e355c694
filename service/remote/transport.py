"""HTTP to the API: errors, what is sent again, and lists by page."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2

from service.remote import credentials
from service.remote.pictures import UsageError

ADDRESS = re.compile(r"https?://[^/\s]+(/\S*)?", re.IGNORECASE)

RETRY_AFTER = 5.0
"""Seconds after which to try again where the answer does not say."""

PAUSES = (0.2, 0.6)
"""Seconds before a call that the network lost is sent again, each time."""

SAFE = {"GET", "HEAD", "PUT", "DELETE"}
"""Methods that may be sent twice. Others may if they have an Idempotency-Key."""


class ApiError(RuntimeError):
    """The API refused; `problem` is its problem+json answer, and `status` its status.

    Where trying again may help (429, 503), `retry_after` is in how many seconds.
    """

    def __init__(self, problem: dict[str, Any], retry_after: float | None = None, status: int = 0) -> None:
        super().__init__(f"{problem.get('title')}: {problem.get('detail')}")
        self.problem, self.retry_after = problem, retry_after
        self.status = status or int(problem.get("status", 0))

    @property
    def errors(self) -> list[tuple[str, str]]:
        """Each field at fault, and what is wrong with it or allowed there."""
        return [(error["field"], error["message"]) for error in self.problem.get("errors", [])]


def _retry_after(response: httpx2.Response) -> float | None:
    if response.status_code not in (429, 503):
        return None
    seconds = response.headers.get("retry-after", "")
    return float(seconds) if seconds.isdecimal() else RETRY_AFTER


def checked(response: httpx2.Response) -> httpx2.Response:
    """The response, once it is read. Raises ApiError for a status of 400 or more."""
    if response.status_code < 400:
        return response
    response.read()
    is_problem = _kind(response) == "application/problem+json"
    problem = response.json() if is_problem else _foreign(response)
    raise ApiError(problem, _retry_after(response), response.status_code)


def _kind(response: httpx2.Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip()


def document(response: httpx2.Response) -> Any:
    """A response as JSON. Raises ApiError if it is none, such as another server's page."""
    if _kind(response) != "application/json":
        raise ApiError(_foreign(response) | {"title": "Not robustreps"})
    return response.json()


def _foreign(response: httpx2.Response) -> dict[str, Any]:
    """What is said, in one line, of an answer that is none of robustreps: of another server, or of a proxy."""
    text = "" if "html" in _kind(response) else " ".join(response.text[:300].split())
    detail = f"{response.url} is not answered as robustreps would ({_kind(response) or 'no content'})"
    title = response.reason_phrase or str(response.status_code)
    return {"title": title, "detail": f"{detail}: {text}" if text else detail, "status": response.status_code}


def _bearer(key: str | None, url: str) -> Callable[[httpx2.Request], httpx2.Request] | None:
    """Sends the key to the service, and to nobody else: a link to the storage has its own right."""
    own = httpx2.URL(url)

    def add(request: httpx2.Request) -> httpx2.Request:
        if (request.url.scheme, request.url.host, request.url.port) == (own.scheme, own.host, own.port):
            request.headers["Authorization"] = f"Bearer {key}"
        return request

    return add if key else None


class Transport:
    """Calls of the API at `url`. May be used by several threads.

    A call that may be sent twice is sent again, after `pauses`, where the network loses it; one that never reached the
    API is sent again in any case. Raises ApiError, or httpx2.TransportError when the API cannot be reached; and
    UsageError, a ValueError, for a `url` that is none.
    """

    def __init__(self, url: str, timeout: float, key: str | None = None) -> None:
        if not ADDRESS.fullmatch(url):
            raise UsageError(f"{url!r} is no address of a service; allowed: http://HOST:PORT or https://HOST")
        self.url = url.rstrip("/")
        self.pauses: Sequence[float] = PAUSES
        self._http = httpx2.Client(base_url=url, timeout=timeout, auth=_bearer(key or credentials.found(url), url))

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, twice: bool = False, **kwargs: Any) -> httpx2.Response:
        """Any call of the API; `twice` says that it may be sent twice. Raises ApiError for an answer of 400 or more."""
        twice = twice or method in SAFE or "Idempotency-Key" in (kwargs.get("headers") or {})
        for pause in self.pauses:
            try:
                return self._once(method, path, **kwargs)
            except httpx2.TransportError as e:
                if isinstance(e, httpx2.TimeoutException) or not (twice or isinstance(e, httpx2.ConnectError)):
                    raise  # what took too long would do so again
                time.sleep(pause)
        return self._once(method, path, **kwargs)

    def _once(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        if hasattr(kwargs.get("content"), "seek"):
            kwargs["content"].seek(0)  # a file that was read, or sent in part
        return checked(self._http.request(method, path, **kwargs))

    def json(self, method: str, path: str, **kwargs: Any) -> Any:
        """The same, as JSON."""
        return document(self.request(method, path, **kwargs))

    @contextmanager
    def stream(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx2.Response]:
        """A response that is read while it comes. Raises ApiError before it begins."""
        with self._http.stream(method, path, **kwargs) as response:
            yield checked(response)

    def pages(self, path: str, name: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every entry of a list, a page at a time."""
        cursor = None
        while True:
            page = self.json("GET", path, params={"limit": 500, **params} | ({"cursor": cursor} if cursor else {}))
            yield from page[name]
            if (cursor := page["next_cursor"]) is None:
                return
