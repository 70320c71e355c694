"""Photographs the dashboard for the README: `make screenshots`, some minutes on 2 cores.

An embedded service with a queue of real jobs on the shipped networks, and Chromium. The pictures go to deploy/gallery.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from deploy.browser import chromium
from service.client import Client
from service.serving import running, serving
from service.settings import Settings

GALLERY = Path(__file__).parent / "gallery"
NETWORKS = ("cifar10-robust", "cifar10-standard")


def images(*indices: int) -> dict[str, Any]:
    return {"source": "dataset", "dataset": "cifar10-sample", "indices": indices}


INVERSION: dict[str, Any] = {
    "kind": "inversion", "preset": "cifar", "start": images(7), "frames": 16, "labels": {"study": "inversion"},
    "description": "Test images from the picture of a horse",
}  # fmt: skip
SWEEP: dict[str, Any] = {
    "kind": "radius_sweep", "model": "cifar10-robust", "preset": "cifar", "steps": 100, "targets": images(0, 1, 3),
    "start": images(7), "radii": [0.5, 1, 2, 4, 8, 16], "labels": {"study": "radius"},
}  # fmt: skip
PATHS: dict[str, Any] = {
    "kind": "interpolation", "model": "cifar10-robust", "preset": "cifar", "steps": 100, "first": images(0, 1),
    "second": images(3, 6), "lambdas": [i / 8 for i in range(9)], "labels": {"study": "paths"},
}  # fmt: skip


def submitted(client: Client) -> dict[str, str]:
    """Jobs that are over, and two that are not."""
    targets = images(*range(24))
    done = {name: client.submit(INVERSION | {"model": name, "targets": targets})["id"] for name in NETWORKS}
    done |= {body["kind"]: client.submit(body)["id"] for body in (SWEEP, PATHS)}
    for each in done.values():
        client.wait(each)
    going: dict[str, Any] = {
        "steps": 5000,
        "model": "cifar10-robust",
        "targets": images(*range(40, 48)),
        "description": "5,000 steps",
    }
    done["running"] = client.submit(INVERSION, **going)["id"]
    client.submit(INVERSION, **going | {"priority": "low", "description": "The same with another seed", "seed": 1})
    while not client.job(done["running"])["progress"]["steps_done"]:
        time.sleep(1)
    return done


@contextmanager
def opened(browser: Browser, url: str, height: int, dark: bool = False) -> Iterator[Page]:
    """A page of which everything is there."""
    page = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme="dark" if dark else "light")
    page.goto(url)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(5000)
    yield page
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GALLERY)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(running(stack.enter_context(serving(Settings(data_dir=folder, port=0, auth="off")))))
        client = stack.enter_context(Client(url))
        browser = stack.enter_context(chromium())
        jobs = submitted(client)
        pages = {
            "jobs": ("/ui/", 760, False),
            "job": (f"/ui/jobs/{jobs[NETWORKS[0]]}", 900, False),
            "item": (f"/ui/jobs/{jobs[NETWORKS[0]]}#item-3", 900, True),
            "compare": (f"/ui/compare?a={jobs[NETWORKS[0]]}&b={jobs[NETWORKS[1]]}", 900, False),
            "radius": (f"/ui/jobs/{jobs['radius_sweep']}", 900, False),
            "path": (f"/ui/jobs/{jobs['interpolation']}", 900, False),
            "running": (f"/ui/jobs/{jobs['running']}", 760, False),
            "new": ("/ui/new?kind=inversion", 900, False),
            "workers": ("/ui/workers", 400, True),
        }
        for name, (path, height, dark) in pages.items():
            with opened(browser, url + path, height, dark) as page:
                page.screenshot(path=out / f"dashboard-{name}.png")
        client.cancel(jobs["running"])


if __name__ == "__main__":
    main()
