"""The last job of a table's recipe: the evaluations of several networks side by side (paper, tables 4 and 5)."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from service.evaluation import EvaluationParameters
from service.models import Artifact, Job
from service.storage import read_file
from workers.context import ShardContext
from workers.engine.outcomes import together
from workers.figures import layout
from workers.figures.claims import Claim, claim
from workers.recipes.drawing import keep
from workers.recipes.evaluation import OUTCOME, Stopped, labels, outcome, stored
from workers.runtime import Hopeless

PAPER = {
    "table-4": "The paper, eps 3: standard VGG16 98.22% / 2.17%, standard ResNet-50 98.01% / 4.74%, robust ResNet-50"
               " 92.39% / 81.91%.",
    "table-5": "The paper, eps 3: standard VGG16 73.36% / 0.35%, standard ResNet-50 76.13% / 0.13%, robust ResNet-50"
               " 57.90% / 35.16%.",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A network's evaluation: what became of each image, in order of index, and its summary."""

    network: str
    parameters: EvaluationParameters
    image: NDArray[np.int64]
    stood: NDArray[np.bool_]
    """[N, 1 + attacks]: clean, then under each."""
    summary: dict[str, Any]


def run(ctx: ShardContext) -> None:
    """Draw the table and save it. Raises Hopeless if a network was not evaluated; LeaseLost; StorageError."""
    if not ctx.work.items:
        return
    try:
        columns = collect(ctx)
    except Stopped:
        return
    parameters = ctx.work.parameters
    claims, rows = compared(columns), [row(column) for column in columns.values()]
    words = notes(parameters["recipe"], columns)
    figure = layout.tabled(parameters["title"], rows, words)
    record = {
        "recipe": parameters["recipe"], "title": parameters["title"], "notes": words, "items": rows,
        "networks": {label: column.network for label, column in columns.items()},
        "claims": [each.record() for each in claims],
        "summaries": {label: column.summary for label, column in columns.items()},
    }  # fmt: skip
    keep(ctx, figure, record, claims)


def collect(ctx: ShardContext) -> dict[str, Column]:
    """Each network's evaluation, in the recipe's order. Raises Hopeless or Stopped."""
    with ctx.runtime.db.reading() as session:
        jobs = session.scalars(select(Job).where(Job.parent_id == ctx.work.lease.job_id)).all()
        summaries = {
            job.id: session.execute(
                select(Artifact.key, Artifact.offset, Artifact.size).where(
                    Artifact.job_id == job.id, Artifact.name == "summary.json"
                )
            ).first()
            for job in jobs
        }
    order, found = ctx.work.parameters["parts"], {}
    for job in sorted(jobs, key=lambda job: order.index(job.part)):
        if (file := summaries[job.id]) is None:
            raise Hopeless(f"the evaluation {job.part} of {job.parameters['model']} has no result")
        whole = together([outcome(data) for data in stored(ctx, OUTCOME, job.id)])
        summary = json.loads(read_file(ctx.runtime.storage, *file))
        p = EvaluationParameters.model_validate(job.parameters)
        found[str(job.part)] = Column(p.model, p, whole.image, whole.stood(), summary)
    return found


def compared(columns: dict[str, Column]) -> list[Claim]:
    """The paper's claim: under attack the robust network is better. Clean accuracies are compared without one."""
    common = set.intersection(*(set(column.image.tolist()) for column in columns.values()))
    first = next(iter(columns.values()))
    made = []
    for a, name in enumerate(["clean", *labels(first.parameters)[: len(first.parameters.attacks)]]):
        of = {
            label: column.stood[np.isin(column.image, list(common)), a].astype(np.float64)
            for label, column in columns.items()
        }
        quantity, better = (f"accuracy under {name}", "higher") if a else ("clean accuracy", None)
        made.append(claim(quantity, of, better, mean=True))  # type: ignore[arg-type]
    return made


def row(column: Column) -> dict[str, Any]:
    """A network's line of the table."""
    shares = {"clean": column.summary["clean"], **{a["name"]: a for a in column.summary["attacks"]}}
    found: dict[str, Any] = {"model": column.network, "images": column.summary["images"]}
    for name, share in shares.items():
        if not name.startswith("control"):
            found |= {name: share["accuracy"], f"{name} low": share["low"], f"{name} high": share["high"]}
    return found


def notes(recipe: str, columns: dict[str, Column]) -> list[str]:
    """What a reader of the table needs to know about how it was made."""
    p = next(iter(columns.values())).parameters
    said = [
        f"Data set {p.dataset}, {p.images:,} images; {p.norm} radius {p.eps:g}, PGD steps of 2.5 eps / steps, a random"
        " start; an image falls if any iterate is misclassified. Intervals are 95%, Wilson's.",
        PAPER[recipe],
    ]
    for column in columns.values():
        said += [f"{column.network}: {sign}" for sign in column.summary["suspicions"]]
        if column.summary["missing"]:
            said.append(
                f"{column.network}: {column.summary['missing']} images could not be evaluated and are left out."
            )
    return said
