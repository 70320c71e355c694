"""What a job has found, as pictures, arrays, a table, or files."""

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.remote.files import download, fetch, parallel, write
from service.remote.pictures import tensors
from service.remote.sources import ranges
from service.remote.transport import Transport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Item = dict[str, Any]


class Results:
    """A job's items as they are now, in order: `for item in results`, `len(results)`, `results[3]`.

    `images`, `arrays`, `numpy` and `torch` are of those that have such a file, in the same order: `indices(name)` says
    which item each of them is. `filters` narrow the items as the API's list has them; shards and archive have all.
    """

    def __init__(self, transport: Transport, job_id: str, filters: Mapping[str, Any] = {}) -> None:
        self._transport, self.job_id, self._filters = transport, job_id, filters

    @cached_property
    def everything(self) -> list[Item]:
        """Every item, as the API lists it, the one that is a bulk job's table among them; read once."""
        return list(self._transport.pages(f"/v1/jobs/{self.job_id}/items", "items", self._filters))

    @cached_property
    def items(self) -> list[Item]:
        """The same without the table."""
        return [item for item in self.everything if not _is_table(item)]

    def __repr__(self) -> str:
        """Reads no list of items for it: the counts are the job's, now."""
        job = self._job()
        counts = Counter(job["items"])
        if (table := self._table(job)) is not None:
            counts.subtract(["total", table["state"]])
        total = counts.pop("total")
        states = "".join(f", {n:,} {state}" for state, n in counts.items() if n)
        return f"<Results of {self.job_id}, {job['state']}: {total:,} items{states}>"

    def _job(self) -> dict[str, Any]:
        found: dict[str, Any] = self._transport.json("GET", f"/v1/jobs/{self.job_id}")
        return found

    def _table(self, job: dict[str, Any]) -> Item | None:
        """The item that is the table: the last of a bulk job, once that is planned."""
        if not job["planning"] or not job["items"]["total"]:
            return None
        path = f"/v1/jobs/{self.job_id}/items/{job['items']['total'] - 1}"
        last: Item = self._transport.json("GET", path)
        return last if _is_table(last) else None

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Item:
        return self.items[index]

    def having(self, name: str) -> list[Item]:
        """The items that have a file of this name."""
        return [item for item in self.everything if artifact(item, name)]

    def indices(self, name: str = "result.safetensors") -> list[int]:
        """Which items have such a file. Rows of `arrays`, `numpy` and `torch` are these items', in this order, and
        pictures of `images(name)` those of `indices(name)`.
        """
        return [item["index"] for item in self.having(name)]

    def names(self) -> list[str]:
        """Of every file that some item has."""
        return sorted({each["name"] for item in self.everything for each in item["artifacts"]})

    def files(self, name: str) -> list[bytes]:
        """The file of each item that has it, with its digest checked. Raises KeyError if items have only others."""
        having = self.having(name)
        if not having and (allowed := self.names()):
            raise KeyError(f"no item of {self.job_id} has a file {name}; allowed: {', '.join(allowed)}")
        return list(parallel(lambda item: fetch(self._transport, artifact(item, name) or {}), having))

    def images(self, name: str = "result.png") -> list["Image"]:
        """The picture of each item that has it: also `start.png`, `target.png`, `figure.png`. Raises KeyError."""
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
        self,
        folder: str | Path,
        names: Sequence[str] = (),
        on_file: Callable[[Path], None] = lambda _: None,
        items: str = "",
    ) -> list[Path]:
        """Download into `folder`: `job.json`, `items.jsonl`, and `items/0000000/result.png` and so on, or only `names`.

        `items` chooses some, such as `0-99,200`. Files that are there already, whole, are left alone, so a download
        that broke off goes on. Raises DigestError, or UsageError for `items` that are no indices.
        """
        wanted = self._wanted(names, ranges(items) if items else None)
        root = Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        (root / "job.json").write_text(json.dumps(self._job(), indent=1))
        (root / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in self.everything))

        def save(each: tuple[Item, dict[str, Any]]) -> Path:
            item, found = each
            path: Path = root / "items" / f"{item['index']:07d}" / found["name"]
            download(self._transport, found, path)
            return path

        return _each(parallel(save, wanted), on_file)

    def _wanted(self, names: Sequence[str], spans: Sequence[range] | None) -> list[tuple[Item, dict[str, Any]]]:
        """The artifacts of these names, if any, of these items; None: of all."""
        chosen = [i for i in self.everything if spans is None or any(i["index"] in span for span in spans)]
        return [(i, a) for i in chosen for a in i["artifacts"] if not names or a["name"] in names]

    def shards(self) -> Iterator[dict[str, Any]]:
        """The tars in which the items' files lie, in the layout of WebDataset: name, first item, size, digest."""
        return self._transport.pages(f"/v1/jobs/{self.job_id}/result-shards", "result_shards", {})

    def save_shards(self, folder: str | Path, on_file: Callable[[Path], None] = lambda _: None) -> list[Path]:
        """Download those into `folder`, and a bulk job's `items.parquet`. Goes on as `save` does.

        Files of items that the job took over from earlier ones lie in those jobs' tars; `save` and `archive` have them.
        """
        root, table = Path(folder), self._table(self._job())

        def save(found: dict[str, Any]) -> Path:
            download(self._transport, found, root / found["name"])
            return root / str(found["name"])

        return _each(parallel(save, [*self.shards(), *(table["artifacts"] if table else ())]), on_file)

    def archive(self, path: str | Path, items: str = "", names: Sequence[str] = ()) -> Path:
        """The job as one file, `.zip` or `.tar` as `path` says; of `items` such as `0-99,200`, and files of `names`.

        Raises httpx2.TransportError where it breaks off; then there is no file.
        """
        target = Path(path)
        params = {"format": target.suffix[1:], "items": items, "names": ",".join(names)}
        part = target.with_name(target.name + ".part")
        asked = {name: value for name, value in params.items() if value}
        with self._transport.stream("GET", f"/v1/jobs/{self.job_id}/archive", params=asked) as response:
            write(response, part)
        return part.replace(target)


def artifact(item: Item, name: str) -> dict[str, Any] | None:
    """An item's artifact of this name, if it has one."""
    return next((each for each in item["artifacts"] if each["name"] == name), None)


def _is_table(item: Item) -> bool:
    return bool(item["target"]["source"] == "table")


def _single(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if not isinstance(value, dict | list)}


def _each(paths: Iterable[Path], on_file: Callable[[Path], None]) -> list[Path]:
    found = []
    for path in paths:
        on_file(path)
        found.append(path)
    return found
