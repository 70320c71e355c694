"""What a job has found, as pictures, arrays, a table, or files."""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.remote.files import download, fetch, parallel, write
from service.remote.pictures import tensors
from service.remote.transport import Transport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

Item = dict[str, Any]


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

        return _each(parallel(save, wanted), on_file)

    def shards(self) -> Iterator[dict[str, Any]]:
        """The tars in which the items' files lie, in the layout of WebDataset: name, first item, size, digest."""
        return self._transport.pages(f"/v1/jobs/{self.job_id}/result-shards", "result_shards", {})

    def save_shards(self, folder: str | Path, on_file: Callable[[Path], None] = lambda _: None) -> list[Path]:
        """Download those into `folder`, and a bulk job's `items.parquet`. Goes on as `save` does."""
        path, root = f"/v1/jobs/{self.job_id}", Path(folder)
        last = self._transport.json("GET", f"{path}/items/{self._transport.json('GET', path)['items']['total'] - 1}")
        whole = last["artifacts"] if last["target"]["source"] == "table" else []

        def save(found: dict[str, Any]) -> Path:
            download(self._transport, found, root / found["name"])
            return root / str(found["name"])

        return _each(parallel(save, [*self.shards(), *whole]), on_file)

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


def _single(values: dict[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (values or {}).items() if not isinstance(value, dict | list)}


def _each(paths: Iterable[Path], on_file: Callable[[Path], None]) -> list[Path]:
    found = []
    for path in paths:
        on_file(path)
        found.append(path)
    return found
