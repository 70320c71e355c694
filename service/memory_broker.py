"""The embedded mode's transport: kombu's in-memory one, taking from queues in the order in which they were named."""

from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import memory
from kombu.utils.scheduling import FairCycle


class InOrder(FairCycle):
    """Begins with the first queue every time."""

    def get(self, callback: Callable[..., Any] | None, **kwargs: Any) -> Any:
        self.pos = 0
        return super().get(callback, **kwargs)


class Channel(memory.Channel):
    def _reset_cycle(self) -> None:
        self._cycle = InOrder(self._get_and_deliver, self._active_queues, Empty)


class Transport(memory.Transport):
    Channel = Channel
