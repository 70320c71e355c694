"""A client of the HTTP API: submit, wait, and results as pictures, arrays, tensors and tables.

    with Client("http://gpu-host:8000") as client:
        job = client.submit(kind="inversion", model="cifar10-robust", preset="cifar", targets=[Path("cat.jpg")])
        client.wait(job, progress=True)
        client.results(job).images()[0].show()

Answers are the API's JSON, as dicts. Importing this imports no torch, no pandas and nothing of the service.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from service.remote.events import Event, Poll, events, pauses
from service.remote.files import DigestError, digest, parallel
from service.remote.pictures import UsageError, encoded
from service.remote.progress import shown
from service.remote.results import Item, Results, artifact
from service.remote.sources import resolve
from service.remote.transport import ApiError
from service.remote.webhooks import WebhookCalls

__all__ = ["TERMINAL", "ApiError", "Client", "DigestError", "Event", "Job", "Results", "UsageError"]

TERMINAL = {"succeeded", "partially_succeeded", "failed", "cancelled", "expired"}
Job = dict[str, Any]
"""A job as the API answers it."""


class Client(WebhookCalls):
    """Submit, wait, download. Raises ApiError, or httpx2.TransportError when the API cannot be reached.

    `key` is left out where ROBUSTREPS_API_KEY has it, or where the service is this machine's embedded one.
    Where the service is busy or away for a while (429, 503), a job is submitted again for `busy_seconds`. Every `job`
    is a job's id, or a job as it was answered.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", timeout: float = 30, busy_seconds: float = 0, key: str | None = None
    ) -> None:
        super().__init__(url, timeout, key)
        self._busy_seconds = busy_seconds

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def upload(self, image: Any) -> str:
        """Store an image; answers the id that jobs name.

        A file's bytes or path, a PIL image, or an array or tensor [3, H, W] or [H, W, 3]: floats in [0, 1] are kept
        exactly, uint8 becomes a PNG. Raises UsageError, a ValueError, for an array of another shape or type.
        """
        with _naming(image):
            return str(self.json("POST", "/v1/images", twice=True, content=encoded(image))["id"])

    def upload_all(self, images: Sequence[Any]) -> list[str]:
        """The same for several at a time; answers their ids in order."""
        return list(parallel(self.upload, images))

    def upload_file(self, path: str | Path, kind: str = "checkpoint") -> str:
        """Store a file of any size: `image`, `tensor`, `checkpoint` or `manifest`; answers the id that requests name.

        It goes to the storage by an address that is made for it, unless the service has it already.
        """
        with Path(path).open("rb") as file, _naming(path):
            body = {"kind": kind, "size": Path(path).stat().st_size, "sha256": digest(Path(path))}
            begun = self.json("POST", "/v1/uploads", json=body, twice=True)
            if begun["result"]:
                return str(begun["result"])
            self.request(begun["method"], begun["url"], content=file, headers=begun["headers"], timeout=None)
            return str(self.json("POST", f"/v1/uploads/{begun['id']}/complete", twice=True, timeout=None)["id"])

    def submit(self, request: Any = None, /, *, idempotency_key: str | None = None, **body: Any) -> Job:
        """Post a job; answers it.

        `request` is a dict, or a request of the service's own (`service.studies.Inversion`, ...), whose fields are
        checked when it is made; keywords stand beside it, or in its place. Images are named as the API has them, or as
        paths, folders, PIL images, arrays, tensors, lists of those, which are uploaded, or `"cifar10-sample:0-7"`.
        Raises UsageError for what names no image.
        """
        return self._submit("/v1/jobs", idempotency_key, self._body(request, body))

    def plan(self, request: Any = None, /, **body: Any) -> dict[str, Any]:
        """What `submit` would do: items, shards, warnings, an estimate of its time. Nothing is queued."""
        plan: dict[str, Any] = self.json(
            "POST", "/v1/jobs", json=self._body(request, body), params={"dry_run": True}, twice=True
        )
        return plan

    def recipe(self, name: str, /, idempotency_key: str | None = None, **body: Any) -> Job:
        """Post one of the paper's figures; answers the job that will draw it."""
        return self._submit(f"/v1/recipes/{name}", idempotency_key, self._body(None, body))

    def clone(self, job: str | Job, /, idempotency_key: str | None = None, **overrides: Any) -> Job:
        """Post a job's request again, with `overrides` as a merge patch: dicts field by field, None removes."""
        return self._submit(f"/v1/jobs/{_id(job)}/clone", idempotency_key, self._body(None, overrides))

    def register_model(self, idempotency_key: str | None = None, **body: Any) -> Job:
        """Have a network checked and registered; answers the job that does so."""
        return self._submit("/v1/models", idempotency_key, body)

    def register_dataset(self, idempotency_key: str | None = None, **body: Any) -> Job:
        """Have a data set checked and registered; answers the job that does so."""
        return self._submit("/v1/datasets", idempotency_key, body)

    def _body(self, request: Any, body: Mapping[str, Any]) -> dict[str, Any]:
        if hasattr(request, "model_dump"):
            from service.requests import envelope  # loaded already, by whoever made the request

            request = request.model_dump(mode="json", exclude_none=True) | envelope(request)
        return resolve({**(request or {}), **body}, self)

    def _submit(self, path: str, key: str | None, body: dict[str, Any]) -> Job:
        """An answer that was lost may have been a job's, so what is sent again has a key."""
        key = key or uuid.uuid4().hex
        until = time.monotonic() + self._busy_seconds
        while True:
            try:
                job: Job = self.json("POST", path, json=body, headers={"Idempotency-Key": key})
                return job
            except ApiError as e:
                if e.retry_after is None or time.monotonic() + e.retry_after > until:
                    raise
                time.sleep(e.retry_after)

    def job(self, job: str | Job) -> Job:
        """The job as it is now."""
        found: Job = self.json("GET", f"/v1/jobs/{_id(job)}")
        return found

    def jobs(self, **filters: Any) -> Iterator[Job]:
        """Jobs, newest first: `state`, `kind`, `label`, `created_after`, `created_before`, `text`, `parent`, ..."""
        return self.pages("/v1/jobs", "jobs", filters)

    def update(self, job: str | Job, /, **changes: Any) -> Job:
        """Change description, labels, metadata, priority, deadline or retention_seconds, as a merge patch."""
        found: Job = self.json("PATCH", f"/v1/jobs/{_id(job)}", json=changes, twice=True)
        return found

    def delete(self, job: str | Job, cancel: bool = False) -> None:
        """Remove a job with all its results; one that is still going only with `cancel`."""
        self.request("DELETE", f"/v1/jobs/{_id(job)}", params={"cancel": cancel})

    def cancel(self, job: str | Job) -> Job:
        """Stop a job; items that have finished keep their results. Answers the job, as the next three do."""
        return self._change(job, "cancel")

    def pause(self, job: str | Job) -> Job:
        """Have workers keep where the job stands and let go of it."""
        return self._change(job, "pause")

    def resume(self, job: str | Job) -> Job:
        """Go on with a paused job."""
        return self._change(job, "resume")

    def retry(self, job: str | Job) -> Job:
        """Have the failed items computed again. Raises ApiError (409) if there are none."""
        return self._change(job, "retry")

    def _change(self, job: str | Job, change: str) -> Job:
        found: Job = self.json("POST", f"/v1/jobs/{_id(job)}/{change}")
        return found

    def dead_letters(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Every failed item, newest first; `filters` are `job` and `title`."""
        return self.pages("/v1/dead-letters", "dead_letters", filters)

    def errors(self, job: str | Job, **filters: Any) -> Iterator[dict[str, Any]]:
        """What was wrong with entries of a data set, manifest or prefix that a job was asked to invert."""
        return self.pages(f"/v1/jobs/{_id(job)}/errors", "errors", filters)

    def failures(self, job: str | Job) -> list[dict[str, Any]]:
        """Why items of a job failed: the causes, most frequent first, each with `count` and the first `items`."""
        return list(self.json("GET", f"/v1/jobs/{_id(job)}/failures")["failures"])

    def shards(self, job: str | Job, **filters: Any) -> Iterator[dict[str, Any]]:
        """The runs of items that workers claim: which is whose, since when, and how far; `state` narrows them."""
        return self.pages(f"/v1/jobs/{_id(job)}/shards", "shards", filters)

    def logs(self, job: str | Job, **filters: Any) -> Iterator[dict[str, Any]]:
        """What happened to a job and its shards, newest first; `shard` and `level` narrow it."""
        return self.pages(f"/v1/jobs/{_id(job)}/logs", "logs", filters)

    def events(self, job: str | Job, last_id: str = "") -> Iterator[Event]:
        """What happens to a job, as it happens, to its end; a stream that breaks is taken up where it broke."""
        return events(self, _id(job), last_id)

    def follow(self, *jobs: str | Job, interval: float = 0.5) -> Iterator[Job]:
        """Each job again and again, as it then is, until all are over; polls come seldom once it takes long."""
        polls = [Poll(self, f"/v1/jobs/{_id(job)}") for job in jobs]
        for pause in pauses(interval):
            seen = [(poll, poll()) for poll in polls]
            yield from (job for _, job in seen)
            if not (polls := [poll for poll, job in seen if job["state"] not in TERMINAL]):
                return
            time.sleep(pause)

    def wait(
        self,
        job: str | Job,
        timeout: float | None = None,
        interval: float = 0.5,
        on_poll: Callable[[Job], None] = lambda _: None,
        progress: bool = False,
    ) -> Job:
        """Wait until the job is over, under a progress bar if asked; answers it. `on_poll` sees every answer.

        Raises TimeoutError after `timeout` seconds.
        """
        begun = time.monotonic()
        with shown() if progress else nullcontext(lambda _: None) as show:
            for found in self.follow(job, interval=interval):
                show(found)
                on_poll(found)
                late = timeout is not None and time.monotonic() - begun > timeout
                if late and found["state"] not in TERMINAL:
                    raise TimeoutError(f"job {_id(job)} is still {found['state']} after {timeout} s")
        return found

    def items(self, job: str | Job, **filters: Any) -> Iterator[Item]:
        """Items, in order of index or by `sort` and `order` of a metric.

        `state`, `error` and `metric`, such as `["ssim>0.5", "pixel_l2<=3"]`, narrow them.
        """
        return self.pages(f"/v1/jobs/{_id(job)}/items", "items", filters)

    def results(self, job: str | Job, **filters: Any) -> Results:
        """What the job has found so far, of all items or of those that `filters` choose, as in `items`."""
        return Results(self, _id(job), filters)

    def artifact(self, item: Item, name: str) -> bytes:
        """The bytes of one of an item's artifacts. Raises KeyError if it has none of this name."""
        if (found := artifact(item, name)) is None:
            raise KeyError(name)
        return self.request("GET", found["url"]).content

    def models(self) -> list[dict[str, Any]]:
        """The card of every network that jobs can name."""
        return list(self.json("GET", "/v1/models"))

    def datasets(self) -> list[dict[str, Any]]:
        """The card of every data set that jobs can name."""
        return list(self.json("GET", "/v1/datasets"))

    def workers(self) -> list[dict[str, Any]]:
        """Every worker process: where, on what, and whether it is alive."""
        return list(self.json("GET", "/v1/workers")["workers"])


@contextmanager
def _naming(file: Any) -> Iterator[None]:
    """What the API finds wrong with one of several files is said of its path."""
    try:
        yield
    except ApiError as e:
        if isinstance(file, str | Path):
            e.problem["errors"] = [{"field": str(file), "message": message} for _, message in e.errors]
        raise


def _id(job: str | Job) -> str:
    return job if isinstance(job, str) else str(job["id"])
