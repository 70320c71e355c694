"""Who may come in: every request to /v1 has a principal by the time a route sees it. Plain ASGI, before any body.

A key comes as `Authorization: Bearer`, a browser's session as a cookie. Pages of others may have a browser send its
cookie, but no header of their own: so a cookie changes something only beside one.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from http.cookies import SimpleCookie

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import errors
from service.access import registry, sessions
from service.access.buckets import Buckets
from service.access.principal import EVERYBODY, REQUESTS, SAFE, Principal, needed
from service.db import Database
from service.settings import Settings

KEPT = 5.0
"""Seconds for which a process takes a key for what it was: so long a revoked one may still open."""
MOST = 10_000
PRINCIPAL = "robustreps.principal"
"""Where a request's scope has it."""
SESSION = "/v1/session"
HEADER = "x-robustreps-dashboard"
"""What the dashboard sends beside its cookie."""


class Verifier:
    """Of a process: keys and sessions to who has them. The database is asked once in `KEPT` seconds for each."""

    def __init__(self, db: Database, secret: bytes, settings: Settings) -> None:
        self.db, self.secret, self.settings = db, secret, settings
        self._requests, self._wrong = Buckets(), Buckets()
        self._known: dict[bytes, tuple[float, Principal]] = {}
        self._noted: dict[str, float] = {}

    async def principal(self, text: str, address: str) -> Principal:
        """Raises Unauthorized, TooManyRequests."""
        digest, at = hashlib.sha256(text.encode()).digest(), time.monotonic()
        until, known = self._known.get(digest, (0.0, None))
        if known is None or until < at:
            if known is None:  # one that was right a moment ago is asked about all the same
                self.heed(address)
            known = await run_in_threadpool(self._verify, text, address)
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[digest] = (at + KEPT, known)
            if known.key and self._noted.get(known.key, 0.0) < at:
                self._noted[known.key] = at + registry.MINUTE
                asyncio.get_running_loop().run_in_executor(None, self._note, known.key)  # nobody waits for it
        return known

    def forget(self, text: str) -> None:
        """Ask the database again."""
        self._known.pop(hashlib.sha256(text.encode()).digest(), None)

    def heed(self, address: str, wrong: bool = False) -> None:
        """Raises TooManyRequests where so many keys came from that opened nothing; `wrong`: another one did."""
        most = self.settings.max_wrong_keys
        if (wait := self._wrong.wait(address, most, 1.0 if wrong else 0.0)) and not wrong:
            detail = f"{most} keys a minute that open nothing are as many as one address may try; wait {wait} s"
            raise errors.TooManyRequests(detail, wait)

    def count(self, principal: Principal) -> None:
        """A request of a tenant. Raises TooManyRequests. Processes that share a port have a part of the quota each."""
        most = self.settings.max_requests_per_minute if principal.requests is None else principal.requests
        if most and (wait := self._requests.wait(principal.tenant, max(most / self.settings.api_processes, 1))):
            detail = f"tenant {principal.tenant}, quota {REQUESTS}: {most:,} are allowed; wait {wait} s"
            raise errors.TooManyRequests(detail, wait)

    def _verify(self, text: str, address: str) -> Principal:
        with self.db.reading() as session:
            find = sessions.find if text.startswith(sessions.PREFIX) else registry.verify
            found = find(session, text, self.secret)
        if found is None:
            self.heed(address, wrong=True)
            raise errors.Unauthorized("this opens nothing here: it is mistyped, has expired or was revoked")
        return found

    def _note(self, key_id: str) -> None:
        with suppress(OperationalError, PoolTimeout), self.db.transaction() as session:
            registry.used(session, [key_id])


class Gate:
    """Lets in who has a key with the scope that the method takes; everybody, as the default tenant, without `verifier`.

    What is not under /v1 is for everybody: the dashboard's files, the reference, whether the service works. So is
    signing in.
    """

    def __init__(self, app: ASGIApp, verifier: Callable[[Scope], Verifier | None]) -> None:
        self.app, self.verifier = app, verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return await self.app(scope, receive, send)
        verifier = self.verifier(scope)
        try:
            if verifier is None:
                scope[PRINCIPAL] = EVERYBODY
            elif (scope["method"], scope["path"]) != ("POST", SESSION):
                scope[PRINCIPAL] = await _entered(verifier, scope)
        except (errors.Problem, OperationalError, PoolTimeout) as e:
            return await errors.rendered(e)(scope, receive, send)
        return await self.app(scope, receive, send)


async def _entered(verifier: Verifier, scope: Scope) -> Principal:
    """Raises Unauthorized, Forbidden, TooManyRequests."""
    headers, method = Headers(scope=scope), scope["method"]
    kind, _, text = headers.get("authorization", "").partition(" ")
    text = text.strip()
    if kind.lower() != "bearer" or not text:
        text = cookie(headers)
        if kind or not text:
            raise errors.Unauthorized("send a key: Authorization: Bearer rr_...")
        if method not in SAFE and not own(headers):
            raise errors.Forbidden(f"a cookie changes something only beside the header {HEADER}, from its own page")
    elif text.startswith(sessions.PREFIX):
        raise errors.Unauthorized("a session is no key, and only a browser's cookie has one")
    found = await verifier.principal(text, address_of(scope))
    verifier.count(found)
    if scope["path"] != SESSION and (scope_ := needed(method)) not in found.scopes:
        raise errors.Forbidden(f"this takes a key with the scope {scope_}; this one has {', '.join(found.scopes)}")
    return found


def address_of(scope: Scope) -> str:
    """Of who asks: of a proxy, unless uvicorn trusts its headers."""
    return str((scope.get("client") or ("unknown",))[0])


def own(headers: Headers) -> bool:
    """Whether a page of the service itself asks, as far as a browser tells."""
    return HEADER in headers and headers.get("sec-fetch-site", "same-origin") == "same-origin"


def cookie_name(headers: Headers) -> str:
    """Browsers share cookies between all ports of a host: services beside each other have one each."""
    _, _, port = headers.get("host", "").rpartition(":")
    return f"robustreps-{port}" if port.isdecimal() else "robustreps"


def cookie(headers: Headers) -> str:
    """The session in a request's cookie, or nothing."""
    found = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers))
    return found.value if found and found.value.startswith(sessions.PREFIX) else ""
