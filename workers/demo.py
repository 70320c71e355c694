"""`robustreps demo`: the main job on the embedded default, ending in one picture."""

import io
import sys
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from service import logs
from service.client import Client
from service.serving import running, serving
from service.settings import Settings

MODELS = {"robust": "cifar10-robust", "standard": "cifar10-standard"}


def invert(client: Client, console: Console, images: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Invert the data set's first images under each model; answers the items by model."""
    body: dict[str, Any] = {
        "kind": "inversion", "preset": "cifar", "steps": steps,
        "targets": {"source": "dataset", "dataset": "cifar10-sample", "indices": list(range(images))},
    }  # fmt: skip
    jobs = {name: client.submit(model=model, **body)["id"] for name, model in MODELS.items()}
    columns = (TextColumn("{task.description:>24}"), BarColumn(50), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for name, job_id in jobs.items():
            bar = progress.add_task(f"{MODELS[name]}, {steps} steps", total=1.0)
            job = client.wait(job_id, on_poll=partial(_advance, progress, bar))
            if job["state"] != "succeeded":
                sys.exit(f"job {job_id} ended as {job['state']}: {[i['error'] for i in client.items(job_id)]}")
    return {name: list(client.items(job_id)) for name, job_id in jobs.items()}


def _advance(progress: Progress, bar: TaskID, job: dict[str, Any]) -> None:
    progress.update(bar, completed=job["progress"]["fraction"])


def draw(client: Client, items: dict[str, list[dict[str, Any]]]) -> Image.Image:
    """Target, start, and the inverse under each model, a column an image."""
    from workers.engine.figures import contact_sheet

    def row(model: str, artifact: str) -> list[Image.Image]:
        return [Image.open(io.BytesIO(client.artifact(item, artifact))) for item in items[model]]

    rows = [("target", row("robust", "target.png")), ("start", row("robust", "start.png"))]
    rows += [(f"{model} inverse", row(model, "result.png")) for model in items]
    return contact_sheet(rows, [item["target"]["label"] for item in items["robust"]])


def table(items: dict[str, list[dict[str, Any]]]) -> Table:
    """What the picture shows, in numbers."""
    shown = Table(title="Does matching the representation recover the image?", title_justify="left")
    shown.add_column("median over the images")
    for model in items:
        shown.add_column(model, justify="right")
    measures = {
        "representation distance ||R(x)-t|| / ||t||, start": "start_relative_distance",
        "representation distance ||R(x)-t|| / ||t||, end": "relative_distance",
        "pixel distance to the target, L2": "pixel_l2",
        "structural similarity to the target, SSIM": "ssim",
    }
    for title, key in measures.items():
        shown.add_row(title, *(f"{median(i['metrics'][key] for i in of):.3f}" for of in items.values()))
    agreed = [f"{sum(i['metrics']['judge_agrees'] for i in of)} of {len(of)}" for of in items.values()]
    shown.add_row("an independent judge sees the target's class", *agreed)
    return shown


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the contact sheet")] = Path("demo-output"),
    images: Annotated[int, typer.Option(min=1, max=64, help="How many test images to invert")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="PGD steps; the paper takes 10,000")] = 300,
) -> None:
    """Invert test images from noise under a robust and a standard network, and draw both."""
    settings = Settings(port=0, heartbeat_seconds=1, auth="off")  # for the time of the demo, on loopback
    logs.configure("console", "WARNING")
    console = Console()
    console.print(f"Inverting {images} test images from noise, by PGD on the representation alone (equation 4).")
    with serving(settings) as server, running(server) as url, Client(url) as client:
        items = invert(client, console, images, steps)
        out.mkdir(parents=True, exist_ok=True)
        sheet = out / "contact-sheet.png"
        draw(client, items).save(sheet)
    console.print(table(items))
    console.print(
        f"\nThe picture: {sheet.absolute()}\nThe dashboard, with these two jobs in it: run\n"
        f"    {Path(sys.argv[0])} serve\nin this folder and open the link that it prints, which signs you in",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
