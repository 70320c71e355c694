"""What jobs add to the registries, each in the transaction that ends the job's item: both happen, or none."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.cards import DatasetCard, ModelCard
from service.db import now
from service.models import Evaluation, Job, RegisteredDataset, RegisteredModel

Also = Callable[[Session], None]
"""What is written in the same transaction as an item's end."""


class NameTaken(ValueError):  # noqa: N818 - what happened
    """Another job registered this name in the meantime."""


def add_model(job_id: str, card: Mapping[str, Any], key: str) -> Also:
    """Register a network whose weights are stored under `key`.

    Raises ValueError for a card that is none, and NameTaken when it is called.
    """
    ModelCard.model_validate_json(json.dumps(card))  # as it will be read by everybody

    def add(session: Session) -> None:
        _free(session, RegisteredModel, str(card["name"]))
        session.add(RegisteredModel(name=card["name"], digest=card["digest"], key=key, **_row(session, job_id, card)))

    return add


def add_dataset(job_id: str, card: Mapping[str, Any], location: Mapping[str, Any]) -> Also:
    """Register a data set that lies where `location` says. Raises as `add_model` does."""
    DatasetCard.model_validate_json(json.dumps(card))

    def add(session: Session) -> None:
        _free(session, RegisteredDataset, str(card["name"]))
        session.add(
            RegisteredDataset(
                name=card["name"], digest=card["digest"], location=dict(location), **_row(session, job_id, card)
            )
        )

    return add


def add_evaluation(job_id: str, model: str, model_digest: str, dataset: str, summary: Mapping[str, Any]) -> Also:
    """Keep what was measured of a network beside it."""

    def add(session: Session) -> None:
        at = session.scalar(select(now()))
        session.merge(
            Evaluation(
                job_id=job_id, model=model, model_digest=model_digest, dataset=dataset, summary=dict(summary), at=at
            )
        )

    return add


def _row(session: Session, job_id: str, card: Mapping[str, Any]) -> dict[str, Any]:
    at, tenant = session.execute(select(now(), Job.tenant).where(Job.id == job_id)).one()
    return {"card": dict(card), "job_id": job_id, "created_at": at, "tenant": tenant}


def _free(session: Session, table: type[RegisteredModel] | type[RegisteredDataset], name: str) -> None:
    if session.get(table, name) is not None:
        raise NameTaken(f"{name} was registered by another job in the meantime; register it under another name")
