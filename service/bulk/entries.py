"""The entries of a large source, one after the other, and what each means for an item."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import images
from service.access.isolation import tenant_of
from service.access.places import is_readable, refusal
from service.broker import Broker
from service.bulk.manifests import Line, lines
from service.bulk.selection import selected
from service.bulk_models import Manifest
from service.catalog import Catalog, label_of
from service.db import Database
from service.errors import FieldError, InvalidInput
from service.kinds.planning import Source
from service.kinds.study_planning import Planner
from service.models import Image
from service.objects import Entry
from service.schemas import (
    DatasetImages,
    ManifestImages,
    MixedImages,
    PatternImages,
    PrefixImages,
    Request,
    UploadedImages,
    listed,
)
from service.settings import Settings
from service.storage import Storage


class Around(Protocol):
    """What planning needs of the process that plans."""

    db: Database
    storage: Storage
    broker: Broker
    catalog: Catalog
    settings: Settings

    def alive(self) -> None:
        """Work goes on."""


PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".npy")


def manifest_key(session: Session, source: Request) -> str | None:
    """Where a manifest lies; None for any other source. Raises InvalidInput if it was not uploaded."""
    if not isinstance(source, ManifestImages):
        return None
    row = session.get(Manifest, source.manifest) if source.manifest else None
    if source.manifest and row is None:
        raise InvalidInput(FieldError("targets.manifest", "is unknown; post the manifest to /v1/manifests first"))
    tenant = tenant_of(session)
    if source.key is not None and not is_readable(tenant, source.key):
        raise InvalidInput(FieldError("targets.key", refusal(tenant)))
    return row.key if row else source.key


def entries(source: Request, manifest: str | None, around: Around) -> Iterator[Line]:
    """What each entry of `source` names, as a line of a manifest would. `manifest` is where one lies.

    Raises InvalidInput, also for more than a job may have, ObjectNotFound or StorageError.
    """
    if manifest is not None:
        return lines(storage_pieces(around, manifest), around.settings.max_bulk_items)
    return (Line(entry, each) for entry, each in enumerate(_named(source, around), 1))


def storage_pieces(around: Around, key: str) -> Iterator[bytes]:
    """An object in pieces, with a sign of life for each."""
    for piece in around.storage.stream(key):
        around.alive()
        yield piece


def _named(source: Request, around: Around) -> Iterator[dict[str, Any]]:
    if isinstance(source, MixedImages):
        for part in source.parts:
            yield from _named(part, around)
    elif isinstance(source, DatasetImages):
        dataset = around.catalog.datasets[source.dataset]
        indices = source.indices if listed(source) else selected(dataset, source, "targets").tolist()
        for index in indices or ():
            yield {"dataset": source.dataset, "index": index}
    elif isinstance(source, UploadedImages):
        yield from ({"image": image} for image in source.images)
    elif isinstance(source, PatternImages):
        for number, kind in enumerate(source.patterns):
            yield {"pattern": kind, "seed": source.seed, "number": number}
    elif isinstance(source, PrefixImages):
        for entry in sorted(_pictures(source.prefix, around)):
            yield {"key": entry.key, "size": entry.size, "modified": entry.modified}


def _pictures(prefix: str, around: Around) -> Iterator[Entry]:
    """In no order. Raises InvalidInput once there are more than a job may have."""
    found = 0
    for entry in around.storage.dated(prefix):
        around.alive()
        if entry.key.lower().endswith(PICTURES) and is_readable(around.db.tenant, entry.key):
            found += 1
            if found > around.settings.max_bulk_items:
                most = around.settings.max_bulk_items
                raise InvalidInput(
                    FieldError("targets.prefix", f"holds more than {most:,} pictures, all that a job may have")
                )
            yield entry


def _readable(line: Line, tenant: str | None) -> Line:
    """The same, refused if it names an object that is not the tenant's to read."""
    if line.errors or "key" not in line.named or is_readable(tenant, line.named["key"]):
        return line
    return Line(line.entry, line.named, (("key", refusal(tenant)),))


class Resolver:
    """Entries to items' targets, a chunk at a time. Data sets' cards are looked at once."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._resized: dict[str, str | None] = {}

    def open(self, chunk: Sequence[Line]) -> None:
        """Have the labels that `resolve` reads: that may take long, so not within a transaction. Raises as they do."""
        for name in {str(line.named["dataset"]) for line in chunk if "dataset" in line.named and not line.errors}:
            if (dataset := self.planner.catalog.datasets.get(name)) and dataset.card.classes:
                _ = dataset.labels

    def resolve(self, session: Session, chunk: Sequence[Line]) -> list[tuple[Line, Source | None]]:
        """Each line with its target, or with what is wrong in its errors and None."""
        ids = {line.named["image"] for line in chunk if "image" in line.named and not line.errors}
        rows = {row.id: row for row in session.scalars(select(Image).where(Image.id.in_(ids)))} if ids else {}
        tenant = tenant_of(session)
        return [self._target(_readable(line, tenant), rows) for line in chunk]

    def _target(self, line: Line, rows: dict[str, Image]) -> tuple[Line, Source | None]:
        if line.errors:
            return line, None
        named, said = line.named, {name: line.named[name] for name in ("id", "label") if name in line.named}
        if "dataset" in named:
            target = self._of_dataset(named["dataset"], named["index"])
        elif "image" in named:
            target = self._of_upload(named["image"], rows.get(named["image"]))
        elif "pattern" in named:
            target = {"source": "pattern", "label": None, **named}
        else:
            target = {"source": "object", "label": None, **named}
        if found := self.planner.errors:
            self.planner.errors = []
            return Line(line.entry, named, tuple((error.field, error.message) for error in found)), None
        return line, target | said

    def _of_dataset(self, name: str, index: int) -> Source:
        datasets = self.planner.catalog.datasets
        if name not in datasets:
            self.planner.refuse("dataset", "is unknown")
            return {}
        dataset = datasets[name]
        if index >= dataset.card.size:
            self.planner.refuse("index", f"is {index}; allowed: 0 to {dataset.card.size - 1}")
            return {}
        if name not in self._resized:
            self._resized[name] = self.planner.of_dataset("dataset", dataset.card)
            if self.planner.errors:
                del self._resized[name]
                return {}
        label = label_of(dataset, index)
        return {"source": "dataset", "dataset": name, "index": index, "resized": self._resized[name], "label": label}

    def _of_upload(self, image_id: str, row: Image | None) -> Source:
        if row is None:
            self.planner.refuse("image", "is unknown; post the image to /v1/images first")
            return {}
        resized = self.planner.resized("image", row.width, row.height, row.media_type == images.TENSOR)
        return {"source": "image", "image": image_id, "resized": resized, "label": None}
