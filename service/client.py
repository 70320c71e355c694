"""A client of the HTTP API."""

import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import httpx2

TERMINAL = {"succeeded", "partially_succeeded", "failed", "cancelled", "expired"}


RETRY_AFTER = 5.0
"""Seconds after which to try again where the answer does not say."""


class ApiError(RuntimeError):
    """The API refused; `problem` is its problem+json answer.

    Where trying again may help (429, 503), `retry_after` is in how many seconds.
    """

    def __init__(self, problem: dict[str, Any], retry_after: float | None = None) -> None:
        super().__init__(f"{problem.get('title')}: {problem.get('detail')}")
        self.problem, self.retry_after = problem, retry_after


def _retry_after(response: httpx2.Response) -> float | None:
    if response.status_code not in (429, 503):
        return None
    seconds = response.headers.get("retry-after", "")
    return float(seconds) if seconds.isdecimal() else RETRY_AFTER


class Client:
    """Submit, wait, download. Raises ApiError, or httpx2.TransportError when the API cannot be reached.

    Where the service is busy or away for a while (429, 503), a job is submitted again for `busy_seconds`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", timeout: float = 30, busy_seconds: float = 0) -> None:
        self._http = httpx2.Client(base_url=url, timeout=timeout)
        self._busy_seconds = busy_seconds

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._http.close()

    def request(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        """Any call of the API. Raises ApiError for an answer of 400 or more."""
        response = self._http.request(method, path, **kwargs)
        if response.status_code >= 400:
            is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
            fallback = {"title": response.reason_phrase, "detail": response.text}
            raise ApiError(response.json() if is_problem else fallback, _retry_after(response))
        return response

    def upload(self, image: bytes) -> str:
        """Post an image file; answers the id that jobs name."""
        image_id: str = self.request("POST", "/v1/images", content=image).json()["id"]
        return image_id

    def submit(self, idempotency_key: str | None = None, **body: Any) -> dict[str, Any]:
        """Post a job; answers it."""
        return self._submit("/v1/jobs", idempotency_key, body)

    def recipe(self, name: str, idempotency_key: str | None = None, **body: Any) -> dict[str, Any]:
        """Post one of the paper's figures; answers the job that will draw it."""
        return self._submit(f"/v1/recipes/{name}", idempotency_key, body)

    def _submit(self, path: str, key: str | None, body: dict[str, Any]) -> dict[str, Any]:
        """An answer that was lost may have been a job's, so what is sent again has a key."""
        key = key or (uuid.uuid4().hex if self._busy_seconds else None)
        until = time.monotonic() + self._busy_seconds
        while True:
            try:
                return self._job("POST", path, json=body, headers={"Idempotency-Key": key} if key else {})
            except ApiError as e:
                if e.retry_after is None or time.monotonic() + e.retry_after > until:
                    raise
                time.sleep(e.retry_after)

    def _job(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        job: dict[str, Any] = self.request(method, path, **kwargs).json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        return self._job("GET", f"/v1/jobs/{job_id}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Stop a job; items that have finished keep their results. Answers the job, as the next three do."""
        return self._job("POST", f"/v1/jobs/{job_id}/cancel")

    def pause(self, job_id: str) -> dict[str, Any]:
        """Have workers keep where the job stands and let go of it."""
        return self._job("POST", f"/v1/jobs/{job_id}/pause")

    def resume(self, job_id: str) -> dict[str, Any]:
        """Go on with a paused job."""
        return self._job("POST", f"/v1/jobs/{job_id}/resume")

    def retry(self, job_id: str) -> dict[str, Any]:
        """Have the failed items computed again. Raises ApiError (409) if there are none."""
        return self._job("POST", f"/v1/jobs/{job_id}/retry")

    def dead_letters(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Every failed item, newest first; `filters` are `job` and `title`."""
        return self._pages("/v1/dead-letters", "dead_letters", filters)

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        on_poll: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Poll until the job is over; `on_poll` sees every answer. Raises TimeoutError after `timeout` seconds."""
        begun = time.monotonic()
        while True:
            job = self.job(job_id)
            on_poll(job)
            if job["state"] in TERMINAL:
                return job
            if timeout is not None and time.monotonic() - begun > timeout:
                raise TimeoutError(f"job {job_id} is still {job['state']} after {timeout} s")
            time.sleep(interval)

    def items(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Every item, in order."""
        return self._pages(f"/v1/jobs/{job_id}/items", "items", {})

    def _pages(self, path: str, name: str, filters: dict[str, str]) -> Iterator[dict[str, Any]]:
        cursor = None
        while True:
            params = {"limit": 500, **filters} | ({"cursor": cursor} if cursor else {})
            page = self.request("GET", path, params=params).json()
            yield from page[name]
            if (cursor := page["next_cursor"]) is None:
                return

    def artifact(self, item: dict[str, Any], name: str) -> bytes:
        """The bytes of one of an item's artifacts. Raises KeyError if it has none of this name."""
        urls = {artifact["name"]: artifact["url"] for artifact in item["artifacts"]}
        return self.request("GET", urls[name]).content
