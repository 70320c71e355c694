"""What every answer tells browsers, so that nothing that is stored here runs as a script of this address.

Plain ASGI, outermost: answers about bugs pass it too.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cache-Control": "no-cache",
}
"""Of the dashboard and the reference, which run the service's own scripts and no other."""
ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
DATA = b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""Of everything else: a browser shows it, as far as it can without an origin, and runs nothing in it."""
NO_STORE = b"cache-control", b"no-store"
"""Of the API's answers that do not say how long they may be kept: they may hold secrets, or links that open doors."""
FOREVER = "private, max-age=31536000, immutable"
"""Cache-Control of what has its digest in its address."""
HTTPS_ONLY = b"strict-transport-security", b"max-age=31536000"
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "application/json", "text/csv"})
"""What a browser shows in place; it saves files of every other type."""


def disposition(media_type: str, name: str) -> str:
    """Content-Disposition of a file."""
    return f'{"inline" if media_type in SHOWN else "attachment"}; filename="{name}"'


class Guarded:
    """Adds these headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], *ALWAYS]
                names = {name for name, _ in headers}
                if DATA[0] not in names:
                    headers.append(DATA)
                if NO_STORE[0] not in names and scope["path"].startswith("/v1/"):
                    headers.append(NO_STORE)
                if scope["scheme"] == "https":
                    headers.append(HTTPS_ONLY)
                message["headers"] = headers
            await send(message)

        return await self.app(scope, receive, guarded)
