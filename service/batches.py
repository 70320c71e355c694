"""What many ask at a time, answered together: one transaction for all who wait costs little more than one for each.

Nobody waits for company. A thread takes whoever is there when it has answered those before, so that who comes alone is
answered alone, and the more come the cheaper each gets.
"""

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

Q = TypeVar("Q")
A = TypeVar("A")
T = TypeVar("T")
Answered = Sequence[A | Exception]


def gather(waiting: "queue.SimpleQueue[T | None]", most: int) -> list[T]:
    """What waits, `most` of it at most, once anything does; nothing when None comes first, which stays there."""
    taken: list[T] = []
    while len(taken) < most and not (taken and waiting.empty()):
        if (another := waiting.get()) is None:
            waiting.put(None)
            break
        taken.append(another)
    return taken


class Batches(Generic[Q, A]):
    """Questions that `answer` answers, in order and `most` at a time; an exception in the place of an answer is one.

    What `answer` raises for several is asked again one by one, so that nobody fails with a neighbour; but if a server
    is away, all are told at once.
    """

    def __init__(self, name: str, answer: Callable[[Sequence[Q]], Answered[A]], most: int = 64) -> None:
        self._answer, self._most = answer, most
        self._waiting: queue.SimpleQueue[tuple[Q, Future[A]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, question: Q) -> Future[A]:
        """The answer to come."""
        future: Future[A] = Future()
        self._waiting.put((question, future))
        return future

    def close(self) -> None:
        """Answer who waits, and stop."""
        self._waiting.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while taken := gather(self._waiting, self._most):
            taken = [each for each in taken if each[1].set_running_or_notify_cancel()]
            for (_, future), answer in zip(taken, self._answers([q for q, _ in taken]), strict=True):
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _answers(self, questions: Sequence[Q]) -> Answered[A]:
        try:
            return self._answer(questions) if questions else ()
        except (OperationalError, PoolTimeout) as e:
            return [e] * len(questions)
        except Exception as e:
            if len(questions) == 1:
                return [e]
            return [each for question in questions for each in self._answers([question])]
