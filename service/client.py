"""A client of the HTTP API."""

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import httpx2

TERMINAL = {"succeeded", "partially_succeeded", "failed", "cancelled", "expired"}


class ApiError(RuntimeError):
    """The API refused; `problem` is its problem+json answer."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(f"{problem.get('title')}: {problem.get('detail')}")
        self.problem = problem


class Client:
    """Submit, wait, download. Raises ApiError, or httpx2.TransportError when the API cannot be reached."""

    def __init__(self, url: str = "http://127.0.0.1:8000", timeout: float = 30) -> None:
        self._http = httpx2.Client(base_url=url, timeout=timeout)

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
            raise ApiError(response.json() if is_problem else fallback)
        return response

    def upload(self, image: bytes) -> str:
        """Post an image file; answers the id that jobs name."""
        image_id: str = self.request("POST", "/v1/images", content=image).json()["id"]
        return image_id

    def submit(self, idempotency_key: str | None = None, **body: Any) -> dict[str, Any]:
        """Post a job; answers it."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        job: dict[str, Any] = self.request("POST", "/v1/jobs", json=body, headers=headers).json()
        return job

    def recipe(self, name: str, idempotency_key: str | None = None, **body: Any) -> dict[str, Any]:
        """Post one of the paper's figures; answers the job that will draw it."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        job: dict[str, Any] = self.request("POST", f"/v1/recipes/{name}", json=body, headers=headers).json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = self.request("GET", f"/v1/jobs/{job_id}").json()
        return job

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
        cursor = None
        while True:
            params = {"limit": 500} | ({"cursor": cursor} if cursor else {})
            page = self.request("GET", f"/v1/jobs/{job_id}/items", params=params).json()
            yield from page["items"]
            if (cursor := page["next_cursor"]) is None:
                return

    def artifact(self, item: dict[str, Any], name: str) -> bytes:
        """The bytes of one of an item's artifacts. Raises KeyError if it has none of this name."""
        urls = {artifact["name"]: artifact["url"] for artifact in item["artifacts"]}
        return self.request("GET", urls[name]).content
