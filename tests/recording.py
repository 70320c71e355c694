"""Write the answers that /openapi.json shows as examples, as a service that computes gives them.

    python -m tests.recording

Each operation is called once, with the first example of its request; what it is about comes from a small job, which is
computed first. Lists are cut to two entries.
"""

import json
import tempfile
from base64 import b64encode
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

from service.client import Client
from service.reference.requests import REQUESTS
from service.reference.schema import ANSWERS, operations
from service.serving import running, serving
from service.settings import Settings
from tests import compatibility
from tests.service.test_images import encode, noise

SMALL: dict[str, Any] = {"kind": "inversion", "model": "cifar10-robust", "preset": "cifar", "steps": 20,
         "targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": [0, 1]}}  # fmt: skip
LONG = SMALL | {"steps": 100_000}
SECRET = "whsec_" + b64encode(bytes(range(24))).decode()
CHANGING = ("/cancel", "/pause", "/resume", "/retry")
IMAGE = encode(noise())
PENDING = {"kind": "image", "size": len(IMAGE), "sha256": sha256(IMAGE).hexdigest()}
BODIES = {"upload_image": IMAGE, "put_content": IMAGE, "upload_checkpoint": b"a checkpoint",
          "upload_manifest": b'{"dataset": "cifar10-sample", "index": 7, "id": "first"}\n'}  # fmt: skip


def shortened(value: Any) -> Any:
    """With at most two entries a list, and eight an object that is a table."""
    if isinstance(value, list):
        return [shortened(each) for each in value[:2]]
    if isinstance(value, dict):
        kept = list(value.items())[: 8 if len(value) > 50 else None]
        return {name: SECRET if name == "secret" else shortened(each) for name, each in kept}
    return value


def _about(http: httpx2.Client, method: str, path: str, known: dict[str, Any]) -> dict[str, Any]:
    """What the placeholders of a path stand for."""
    names = {"/models": "cifar10-robust", "/datasets": "cifar10-sample", "/artifacts": "result.png"}
    found = known | {"name": next((name for part, name in names.items() if part in path), known["tar"])}
    if path.endswith("/webhooks/{webhook_id}") and method == "delete":
        found["webhook_id"] = http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hooks"}).json()["id"]
    if "/uploads" in path:
        found["upload_id"] = known["pending"]
    if "{job_id}" in path and (path.endswith(CHANGING) or method == "delete"):
        found["job_id"] = http.post("/v1/jobs", json=LONG).json()["id"]
        if before := {"resume": "pause", "{job_id}": "cancel"}.get(path.rsplit("/", 1)[1]):
            http.post(f"/v1/jobs/{found['job_id']}/{before}")
    return found


def _recorded(http: httpx2.Client, schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for path, method, operation in operations(schema):
        name = operation["operationId"]
        if path.startswith("/v1/recipes/") and name != "submit_figure_3":
            continue  # they answer alike
        about = _about(http, method, path, known)
        options: dict[str, Any] = {}
        if name in BODIES:
            options = {"content": BODIES[name], "headers": {"Content-Type": "application/octet-stream"}}
        elif examples := REQUESTS.get(name):
            options = {"json": next(iter(examples.values()))[1]}
        in_path = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
        told = answers[name] = {"tags": operation["tags"], "forms": {}, "answers": {},
                                "parameters": {p: about[p] for p in in_path}}  # fmt: skip
        tried = [p["name"] for p in operation.get("parameters", ()) if p["name"] == "dry_run"]
        for query in [*({each: True} for each in tried), {}]:
            answer = http.request(method.upper(), path.format_map(about), params=query, **options)
            if answer.status_code >= 300:
                print(name, answer.status_code, answer.text[:300])  # noqa: T201 - a command's answer
            elif answer.content and answer.headers.get("content-type") == "application/json":
                status, body = str(answer.status_code), answer.json()
                told["answers"][status] = shortened(body)
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                told["forms"] |= {schema["$ref"]: status} if "$ref" in schema else {}
                if status == "202" and "items" in body:
                    http.post(f"/v1/jobs/{body['id']}/cancel")
    return answers


def main() -> None:
    ANSWERS.unlink(missing_ok=True)  # the service would read it
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(
            running(
                stack.enter_context(
                    serving(
                        Settings(data_dir=Path(folder), port=0, auth="off", webhook_private=True, webhook_http=True)
                    )
                )
            )
        )
        client, http = stack.enter_context(Client(url)), stack.enter_context(httpx2.Client(base_url=url, timeout=60))
        job = client.wait(client.submit(**SMALL)["id"], 120)
        tars = http.get(f"/v1/jobs/{job['id']}/result-shards").json()["result_shards"]
        image = http.post("/v1/images", content=BODIES["upload_image"]).json()["id"]
        checkpoint = http.post("/v1/checkpoints", content=BODIES["upload_checkpoint"]).json()["id"]
        manifest = http.post("/v1/manifests", content=BODIES["upload_manifest"]).json()["id"]
        pending = http.post("/v1/uploads", json=PENDING).json()["id"]
        known = {"job_id": job["id"], "index": 0, "image_id": image, "upload_id": checkpoint, "tar": tars[0]["name"],
                 "manifest_id": manifest, "pending": pending}  # fmt: skip
        hook = http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/hooks"}).json()["id"]
        delivery = http.post(f"/v1/webhooks/{hook}/test").json()["id"]
        known |= {"webhook_id": hook, "delivery_id": delivery}
        found = _recorded(http, compatibility.present(), known)
    ANSWERS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
