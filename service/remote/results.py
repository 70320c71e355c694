"""What a job has found, as pictures, arrays, a table, or files."""

import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from service.remote.pictures import tensors
from service.remote.transport import Transport

if TYPE_CHECKING:
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

T = TypeVar("T")
R = TypeVar("R")
Item = dict[str, Any]
THREADS = 8


class DigestError(RuntimeError):
    """What was downloaded, twice, is not what the job stored."""


class Results:
    """A job's items as they are now, in order: `for item in results`, `len(results)`, `results[3]`.

    `images`, `arrays`, `numpy` and `torch` are of those that have such a file, in the same order: `having(name)`.
    """

    def __init__(self, transport: Transport, job_id: str) -> None:
        self._transport, self.job_id = transport, job_id

    @cached_property
    def items(self) -> list[Item]:
        """Every item, as the API lists it; read once."""
        return list(self._transport.pages(f"/v1/jobs/{self.job_id}/items", "items", {}))

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def having(self, name: str) -> list[Item]:
        """The items that have a file of this name."""
        return [item for item in self if artifact(item, name)]

    def files(self, name: str) -> list[bytes]:
        """The file of each item that has it, with its digest checked."""
        return list(parallel(lambda item: fetch(self._transport, artifact(item, name) or {}), self.having(name)))

    def images(self, name: str = "result.png") -> list["Image"]:
        """Each item's picture: also `start.png`, `target.png`, `figure.png`."""
        from PIL import Image

        return [Image.open(io.BytesIO(data)) for data in self.files(name)]

    def arrays(self) -> list[dict[str, "NDArray[Any]"]]:
        """Everything that each item's `result.safetensors` holds, by name: `image`, `start`, `representation`, ..."""
        return [tensors(data) for data in self.files("result.safetensors")]

    def numpy(self, name: str = "image") -> "NDArray[np.float32]":
        """One of them of all items: images as [N, H, W, 3] in [0, 1], exactly as computed; others [N, ...].

        Raises KeyError if the job has none of this name.
        """
        import numpy as np

        stacked = self._stacked(name)
        channels_last = stacked.ndim == 4 and stacked.shape[1] == 3
        return np.ascontiguousarray(stacked.transpose(0, 2, 3, 1)) if channels_last else stacked

    def torch(self, name: str = "image") -> Any:
        """The same as a tensor on the CPU; images are [N, 3, H, W]. Needs torch."""
        return import_module("torch").from_numpy(self._stacked(name))

    def _stacked(self, name: str) -> "NDArray[Any]":
        import numpy as np

        found = [tensors(data) for data in self.files("result.safetensors")]
        if not found or any(name not in each for each in found):
            allowed = ", ".join(sorted(found[0])) if found else "none: no item has tensors"
            raise KeyError(f"{name} is no array of every item of {self.job_id}; allowed: {allowed}")
        return np.stack([each[name] for each in found])

    def rows(self) -> Iterator[dict[str, Any]]:
        """An item a row: its index, state and label, what its target is, its error, and every metric of one value."""
        for item in self:
            target, error = _single(item["target"]), item["error"] or {}
            row = {"item": item["index"], "state": item["state"], "label": target.pop("label", None)}
            named = {f"target_{name}": value for name, value in target.items()}
            yield row | named | {"error": error.get("title")} | _single(item["metrics"])

    def dataframe(self) -> Any:
        """A pandas DataFrame of `rows`, by item. Needs pandas."""
        return import_module("pandas").DataFrame(list(self.rows())).set_index("item")

    def save(
        self, folder: str | Path, names: Sequence[str] = (), on_file: Callable[[Path], None] = lambda _: None
    ) -> list[Path]:
        """Download into `folder`: `job.json`, `items.jsonl`, and `items/0000000/result.png` and so on, or only `names`.

        Files that are there already, whole, are left alone, so a download that broke off goes on. Raises DigestError.
        """
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        job = self._transport.json("GET", f"/v1/jobs/{self.job_id}")
        (root / "job.json").write_text(json.dumps(job, indent=1))
        (root / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in self))
        wanted = [(i, a) for i in self for a in i["artifacts"] if not names or a["name"] in names]

        def save(each: tuple[Item, dict[str, Any]]) -> Path:
            item, found = each
            path: Path = root / "items" / f"{item['index']:07d}" / found["name"]
            download(self._transport, found, path)
            return path

        paths = []
        for path in parallel(save, wanted):
            on_file(path)
            paths.append(path)
        return paths


def artifact(item: Item, name: str) -> dict[str, Any] | None:
    """An item's artifact of this name, if it has one."""
    return next((each for each in item["artifacts"] if each["name"] == name), None)


def _single(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if not isinstance(value, dict | list)}


def parallel(call: Callable[[T], R], values: Iterable[T], threads: int = THREADS) -> Iterator[R]:
    """`call` of each value, in order, several at a time; what is not asked for is not fetched."""
    from collections import deque

    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                running.append(pool.submit(call, value))
                if len(running) > 2 * threads:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for each in running:
                each.cancel()


def fetch(transport: Transport, found: dict[str, Any]) -> bytes:
    """An artifact's bytes. Raises DigestError if they are not what its digest says, twice."""
    for _ in range(2):
        data = transport.request("GET", found["url"]).content
        if hashlib.sha256(data).hexdigest() == found["sha256"]:
            return data
    raise DigestError(f"{found['url']} is not what the job stored: its digest differs")


def download(transport: Transport, found: dict[str, Any], path: Path) -> None:
    """An artifact to a file, unless it is there, whole. Raises DigestError, and then leaves no file."""
    if path.exists() and path.stat().st_size == found["size"] and _digest(path) == found["sha256"]:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for again in (True, False):
        try:
            with transport.stream("GET", found["url"]) as response, part.open("wb") as file:
                for chunk in response.iter_bytes(1 << 16):
                    file.write(chunk)
        except httpx2.TransportError:
            if again:
                continue
            raise
        if _digest(part) == found["sha256"]:
            part.replace(path)
            return
    part.unlink(missing_ok=True)
    raise DigestError(f"{found['url']} is not what the job stored: its digest differs")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
