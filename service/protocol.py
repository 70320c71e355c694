"""HTTP as uvicorn speaks it, with bounds on what a connection may send before it is a request."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 65_536
"""Bytes of a request's line and headers; a part of them that arrives at once may be counted when it is there."""
SLOWEST_HEAD = 20.0
"""Seconds that they may take, or that a connection may stay silent before its first request."""


class Protocol(HttpToolsProtocol):
    """Closes a connection whose headers are too long, or too long in coming: httptools would go on for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = 0
        self._late: asyncio.TimerHandle | None = self.loop.call_later(SLOWEST_HEAD, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._begun, self._head = False, 0
        self._in_time()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._begun and not self.transport.is_closing():
            self._head += len(data)
            if self._head > MOST_HEAD:
                self.send_400_response(f"The request's headers are over {MOST_HEAD} bytes.")
            elif self._late is None:
                self._late = self.loop.call_later(SLOWEST_HEAD, self.transport.close)

    _begun = False

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
