"""Tars of items' files, as the standard library writes them: what tests hold a worker's against."""

import hashlib
import io
import tarfile
from collections.abc import Mapping

from service.keys import result_shard_key
from service.leases import Lease, Result
from service.objects import Part, Storage, Stored

Files = Mapping[int, Mapping[str, bytes]]
"""Bytes by item and name."""


def packed(storage: Storage, lease: Lease, files: Files, number: int = 0) -> tuple[Stored, list[Result]]:
    """A stored tar, and the results whose files lie in it."""
    key = result_shard_key(lease.job_id, lease.shard_id, lease.epoch, number)
    out, results = io.BytesIO(), []
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for index, of_item in files.items():
            for name, data in of_item.items():
                info = tarfile.TarInfo(f"{index:07d}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        offsets = {info.name: info.offset_data for info in tar}
    for index, of_item in files.items():
        parts = {
            name: (Part(key, len(data), hashlib.sha256(data).hexdigest(), offsets[f"{index:07d}.{name}"]), "x/y")
            for name, data in of_item.items()
        }
        results.append(Result(index, {"n": index}, {"epoch": lease.epoch}, parts))
    return storage.put(key, out.getvalue(), "application/x-tar"), results
