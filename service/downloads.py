"""Links by which a client gets artifacts from the storage by itself."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import responses
from service.models import Artifact
from service.objects import Link, Storage


def link(storage: Storage, row: Artifact, seconds: int) -> Link | None:
    """A GET of an artifact, or of its part of an object; None where it can be had from the API alone."""
    if row.offset is not None and not row.size:
        return None  # there is no range of no bytes
    name = f"{row.job_id}-{row.item_index}-{row.name}"
    found = storage.download_link(row.key, name, row.media_type, seconds)
    if found and row.offset is not None:
        return found._replace(headers={"Range": f"bytes={row.offset}-{row.offset + row.size - 1}"})
    return found


def add(
    session: Session, storage: Storage, seconds: int, own: str, job_id: str,
    items: Mapping[int, Sequence[responses.Artifact]],
) -> None:  # fmt: skip
    """Give these artifacts of a job, by item, a link each; `own` is the API's address, which serves local files."""
    if not items:
        return
    until = datetime.now(UTC) + timedelta(seconds=seconds)
    wanted = (Artifact.job_id == job_id) & Artifact.item_index.between(min(items), max(items))
    rows = {(row.item_index, row.name): row for row in session.scalars(select(Artifact).where(wanted))}
    for index, artifacts in items.items():
        for artifact in artifacts:
            if (row := rows.get((index, artifact.name))) is None:
                continue  # a retry has removed it meanwhile
            found = link(storage, row, seconds)
            url, headers = found or Link(own.rstrip("/") + artifact.url, {})
            artifact.download = responses.Download(url=url, headers=headers, expires_at=until if found else None)
