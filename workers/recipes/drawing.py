"""The last job of a recipe: its finished studies to one figure and its numbers."""

import json
from importlib.metadata import version
from typing import Any

from matplotlib.figure import Figure
from safetensors.numpy import load
from sqlalchemy import select

from service.cards import ModelCard
from service.models import Artifact, Item, Job, Transition
from service.states import ItemState, JobState
from service.storage import read_file
from workers.context import ShardContext
from workers.figures import families, layout
from workers.figures.claims import Claim
from workers.figures.parts import TRACE, Part, Parts, Result, aligned
from workers.figures.registry import FIGURES
from workers.recipes.results import Files, table
from workers.runtime import Hopeless

TENSORS = "result.safetensors"


def run(ctx: ShardContext) -> None:
    """Draw the recipe's figure and save it. Raises Hopeless if a study has nothing to draw; LeaseLost; StorageError."""
    if not ctx.work.items:
        return
    parameters = ctx.work.parameters
    parts = collect(ctx)
    if parts is None:
        return
    try:
        parts = aligned(parts)
        drawn = FIGURES[parameters["recipe"]](parameters["title"], parts)
    except ValueError as e:
        raise Hopeless(str(e)) from e
    words = notes(parts, drawn.claims)
    figure = drawn.figure([f"{i + 1}. {c.sentence()}" for i, c in enumerate(drawn.claims[:6])] + words)
    record = numbers(parameters, parts, drawn.claims, words)
    keep(ctx, figure, record, drawn.claims)


def keep(ctx: ShardContext, figure: Figure, record: dict[str, Any], claims: list[Claim]) -> None:
    """Save a recipe's one item: its figure, and the numbers behind it. Raises LeaseLost or StorageError."""
    files: Files = {
        "figure.png": (layout.rendered(figure, "png"), "image/png"),
        "figure.pdf": (layout.rendered(figure, "pdf"), "application/pdf"),
        "numbers.json": (json.dumps(record, indent=1).encode(), "application/json"),
        "numbers.csv": (table(record["items"]), "text/csv"),
    }
    parameters = ctx.work.parameters
    holds = {c.quantity: c.holds for c in claims if c.holds is not None}
    provenance = {"parameters": dict(parameters), "code_version": version("robustreps"), "epoch": ctx.work.lease.epoch}
    ctx.save(0, {"claims": holds, "claims_held": sum(holds.values()), "claims_made": len(holds)}, provenance, files)


def collect(ctx: ShardContext) -> Parts | None:
    """The recipe's studies, read from the database and the storage; None if the context asked to stop."""
    parts = {}
    with ctx.runtime.db.reading() as session:
        jobs = session.scalars(select(Job).where(Job.parent_id == ctx.work.lease.job_id)).all()
    order = ctx.work.parameters["parts"]
    for job in sorted(jobs, key=lambda job: order.index(job.part)):
        card = ctx.runtime.catalog.models[job.parameters["model"]]
        with ctx.runtime.db.reading() as session:
            done = (Item.job_id == job.id) & (Item.state == ItemState.SUCCEEDED)
            items = session.scalars(select(Item).where(done).order_by(Item.index)).all()
            stored = select(Artifact).where(Artifact.job_id == job.id, Artifact.name == TENSORS)
            files = {each.item_index: (each.key, each.offset, each.size) for each in session.scalars(stored)}
            begun, ended = (_entered(session, job.id, state) for state in (JobState.RUNNING, JobState.FINALIZING))
        results = []
        for item in items:
            if ctx.should_stop():
                return None
            data = read_file(ctx.runtime.storage, *files[item.index])
            tensors = {name: tensor for name, tensor in load(data).items() if name not in TRACE}
            results.append(Result(item.index, item.target, item.start, item.settings, item.metrics or {}, tensors))
            ctx.alive()
        seconds = ended - begun if begun and ended else None
        label = str(job.part)
        parts[label] = Part(label, network_name(card), job.parameters, results, job.items - len(results), seconds)
    return parts


def _entered(session: Any, job_id: str, state: JobState) -> float | None:
    at: float | None = session.scalar(
        select(Transition.at).where(Transition.job_id == job_id, Transition.state == state).order_by(Transition.id)
    )
    return at


def network_name(card: ModelCard) -> str:
    """A network as figures call it."""
    return f"{card.name} (robust, L2 {card.epsilon:g})" if card.epsilon else f"{card.name} (standard)"


def notes(parts: Parts, claims: list[Claim]) -> list[str]:
    """What a reader of the figure needs to know about how it was made."""
    first = next(iter(parts.values())).parameters
    how = f"eps {first['eps']:g}, step {first['step_size']:g}, {first['steps']} steps"
    if "radii" in first:
        how = f"step at most {first['step_size']:g}, {first['steps']} steps, best iterate"
    scaled = ", scaled to 32 x 32 pixels: not the paper's parameters" if first["preset"] in ("cifar", "fast") else ""
    networks = {part.of: part.network for part in parts.values()}
    said = [f"{'; '.join(f'{label}: {network}' for label, network in networks.items())}."]
    said += [f"Preset {first['preset']}{scaled}; {how}; judge {first['judge'] or 'none'}. Intervals are 95% bootstrap."]
    if len(claims) > 6:
        said.append(f"{len(claims) - 6} more quantities stand in numbers.json.")
    for part in parts.values():
        if rule := part.parameters.get("regularization"):
            said.append(f"{part.label}: {part.parameters['steps']} steps of Adam at {rule['learning_rate']:g}.")
        if part.missing:
            said.append(f"{part.label}: {part.missing} items have no result and are left out.")
    return said


def numbers(parameters: Any, parts: Parts, claims: list[Claim], words: list[str]) -> dict[str, Any]:
    """Everything behind the figure: the claims, the cost, every item's metrics."""
    return {
        "recipe": parameters["recipe"],
        "title": parameters["title"],
        "networks": {part.of: part.network for part in parts.values()},
        "notes": words,
        "claims": [c.record() for c in claims],
        "cost": {
            label: {"items": len(part.results), "image_steps": part.image_steps, "seconds": part.seconds}
            for label, part in parts.items()
        },
        "items": families.numbers(parts),
    }
