"""Jobs whose items are over, with pictures of known pixels, made without a worker."""

import io
from typing import Any

import numpy as np
from PIL import Image as Pictures
from sqlalchemy import insert, select, update

from service.db import Database
from service.models import Artifact, Image, Item, Job, Shard
from tests.fixtures import LiveService, inversion

Still = tuple[LiveService, Database]
SHADES = 5
"""How many different pictures there are of each name."""


def shade(name: str, index: int) -> int:
    """The gray of an item's picture."""
    return 20 + 10 * (index % SHADES) + {"target.png": 0, "start.png": 80, "result.png": 40}[name]


def distance(index: int) -> float:
    """The relative distance of an item: no two of a thousand are alike, and the order is another than theirs."""
    return (index * 7 % 1000 + 1) / 1000


def picture(gray: int) -> bytes:
    """A PNG of 32 x 32 pixels, gray but for a white one in a corner."""
    pixels = np.full((32, 32, 3), gray, np.uint8)
    pixels[0, 0] = 255
    file = io.BytesIO()
    Pictures.fromarray(pixels).save(file, "png")
    return file.getvalue()


def computed(still: Still, count: int, **body: Any) -> str:
    """A job of `count` items that have all succeeded. Answers its id."""
    service, db = still
    of = {"source": "dataset", "dataset": "cifar10-sample", "indices": [i % 400 for i in range(count)]}
    job = service.submit(inversion(**{"targets": of, "steps": 40} | body))["id"]
    files = {(name, k): _stored(still, shade(name, k)) for name in ("target.png", "start.png", "result.png")
             for k in range(SHADES)}  # fmt: skip
    rows = [
        files[name, i % SHADES] | {"job_id": job, "item_index": i, "name": name, "offset": None}
        for i in range(count)
        for name in ("target.png", "start.png", "result.png")
    ]
    with db.transaction() as session:
        over = {"state": "succeeded", "finished_at": Job.created_at + 90, "counts": {"succeeded": count}}
        session.execute(update(Job).where(Job.id == job).values(over))
        session.execute(update(Shard).where(Shard.job_id == job).values(state="done"))
        for item in session.scalars(select(Item).where(Item.job_id == job)):
            item.state, item.finished_at = "succeeded", 1.0
            item.metrics = {"relative_distance": distance(item.index), "ssim": 0.5, "steps_taken": 40}
        session.execute(insert(Artifact), rows)
    return str(job)


def _stored(still: Still, gray: int) -> dict[str, Any]:
    """A picture as an object that rows can name."""
    service, db = still
    image = service.client.upload(picture(gray))
    with db.reading() as session:
        row = session.get_one(Image, image)
        return {"key": row.key, "size": row.size, "sha256": image.removeprefix("sha256:"), "media_type": "image/png"}
