"""Takes submissions in and tells of jobs, each for all who ask at a time: one transaction, one page of queries."""

from collections.abc import Sequence

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import drafts, limits
from service.batches import Answered, Batches
from service.db import Database
from service.drafts import Draft
from service.errors import NotFound, Problem
from service.settings import Settings
from service.submissions import Made, by_keys
from service.telling import Teller, Told


class Intake:
    """Of a process: each asks at the price of a share."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.db, self.settings = db, settings
        self._teller = Teller()
        self._taken = Batches[Draft, Told]("intake", self._take)
        self._told = Batches[str, Told]("reader", self._tell)
        self.take, self.tell = self._taken.ask, self._told.ask

    def close(self) -> None:
        self._taken.close()
        self._told.close()

    def _take(self, asked: Sequence[Draft]) -> Answered[Told]:
        try:
            ids = self._insert(asked)
        except IntegrityError:  # another process's submission with a key committed in between: now it is found
            ids = self._insert(asked)
        made = {each for each in ids if isinstance(each, str)}
        new = {each.job["id"]: each for each in asked if each.at_once and each.job["id"] in made}
        with self.db.reading() as session:
            told = self._teller.tell_new(session, list(new.values())) if new else {}
            if others := made - new.keys():
                told |= self._teller.tell(session, others)
        return [told.get(each, unknown(each)) if isinstance(each, str) else each for each in ids]

    def _insert(self, asked: Sequence[Draft]) -> Answered[str]:
        with self.db.transaction() as session:
            return admitted(session, self.settings, asked)

    def _tell(self, ids: Sequence[str]) -> Answered[Told]:
        with self.db.reading() as session:
            told = self._teller.tell(session, ids)
        return [told.get(job_id, unknown(job_id)) for job_id in ids]


def unknown(job_id: str) -> NotFound:
    return NotFound(f"no job {job_id}")


def admitted(session: Session, settings: Settings, asked: Sequence[Draft]) -> Answered[str]:
    """Insert the drafts that limits allow; answers their ids, or those of the jobs that their keys made before."""
    by_key = by_keys(session, {key for draft in asked if (key := draft.job["idempotency_key"])})
    counted = limits.queued(session)
    answers: list[str | Exception] = []
    new: list[Draft] = []
    for draft in asked:
        job, client = draft.job, draft.job["client"]
        try:
            if (before := by_key.get(job["idempotency_key"])) is not None:
                answers.append(before.made_by(job["request_digest"]))
                continue
            limits.check(session, settings, client, draft.items, counted)
        except Problem as e:
            answers.append(e)
            continue
        limits.add(counted, client, draft.items)
        if key := job["idempotency_key"]:
            by_key[key] = Made(key, job["id"], job["request_digest"])
        answers.append(job["id"])
        new.append(draft)
    drafts.insert(session, new)
    return answers
