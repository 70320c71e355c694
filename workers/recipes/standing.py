"""Where a shard's searches stand, as one file: what a later claim, in any process, goes on from to the last bit.

Searches are named by item and restart, since a later claim has other items beside them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
import torch
from safetensors.torch import load, save
from torch import Tensor

from service.models import Item
from workers.context import ShardContext
from workers.engine.lanes import COLUMNS
from workers.engine.rows import Outcome, Saved, Snapshot, State

log = structlog.get_logger()
Name = tuple[int, int]
"""An item's index, and the number of the restart."""


@dataclass
class Standing:
    """Searches under way, and those that are over of items that are not.

    Of an ascent: the rows that it makes side by side, and the tensors [rows, ...] that it goes on from.
    """

    begun: dict[Name, Saved] = field(default_factory=dict)
    over: dict[Name, Outcome] = field(default_factory=dict)
    ascends: list[Name] = field(default_factory=list)
    ascent: dict[str, Tensor] = field(default_factory=dict)


def names(items: Sequence[Item], restarts: int) -> list[Name]:
    """Of the rows of these items, in order."""
    return [(item.index, restart) for item in items for restart in range(restarts)]


def standing_of(names: Sequence[Name], begun: Snapshot, over: Sequence[Outcome]) -> Standing:
    """By name what is numbered by the place in `names`."""
    return Standing({names[n]: saved for n, saved in begun.items()}, {names[o.number]: o for o in over})


def pack(standing: Standing) -> bytes:
    tensors: dict[str, Tensor] = {}
    about: dict[str, Any] = {"begun": {}, "over": {}}
    for name, saved in standing.begun.items():
        own = {f"image{i}": image for i, image in enumerate(saved.state.images)} | {"numbers": saved.state.numbers}
        own |= {"loss": torch.from_numpy(saved.loss), "grad_norm": torch.from_numpy(saved.grad_norm)}
        own |= {f"frame{step}": frame for step, frame in saved.frames.items()}
        about["begun"][_joined(name)] = {
            "images": len(saved.state.images), "k": saved.k, "bucket": saved.bucket, "frames": list(saved.frames),
        }  # fmt: skip
        tensors |= {f"{_joined(name)}.{key}": tensor for key, tensor in own.items()}
    for name, outcome in standing.over.items():
        own = {"x": outcome.x, "loss": outcome.loss, "grad_norm": outcome.grad_norm, "frames": outcome.frames}
        about["over"][_joined(name)] = {
            "bucket": outcome.bucket, "frame_steps": outcome.frame_steps, "error": outcome.error,
        }  # fmt: skip
        tensors |= {f"{_joined(name)}.{key}": tensor for key, tensor in own.items()}
    about["ascends"] = list(map(_joined, standing.ascends))
    tensors |= {f"ascent.{key}": tensor for key, tensor in standing.ascent.items()}
    metadata = {"columns": json.dumps(COLUMNS), "about": json.dumps(about)}
    return save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata)


def unpack(data: bytes) -> Standing:
    """Nothing, if another version of the engine wrote it. Raises what `load` does if it is no such file."""
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    standing, tensors = Standing(), load(data)
    if json.loads(metadata["columns"]) != list(COLUMNS):
        return standing
    about = json.loads(metadata["about"])

    def of(name: str, key: str) -> Tensor:
        return tensors[f"{name}.{key}"]

    for name, was in about["begun"].items():
        state = State([of(name, f"image{i}") for i in range(was["images"])], of(name, "numbers"))
        frames = {step: of(name, f"frame{step}") for step in was["frames"]}
        loss, grad_norm = of(name, "loss").numpy(), of(name, "grad_norm").numpy()
        standing.begun[_parted(name)] = Saved(state, was["k"], loss, grad_norm, frames, was["bucket"])
    for name, was in about["over"].items():
        x, norms, pictures = of(name, "x"), of(name, "grad_norm"), of(name, "frames")
        standing.over[_parted(name)] = Outcome(0, x, of(name, "loss"), norms, pictures, **was)
    standing.ascends = list(map(_parted, about["ascends"]))
    standing.ascent = {key.removeprefix("ascent."): t for key, t in tensors.items() if key.startswith("ascent.")}
    return standing


def kept(ctx: ShardContext) -> Standing:
    """Where an earlier claim of the shard left its searches. Raises StorageError."""
    data = ctx.kept()
    if data is None:
        return Standing()
    standing = unpack(data)
    log.info("goes on", searches=len(standing.begun), steps=sum(saved.k for saved in standing.begun.values()),
             over=len(standing.over), ascends=len(standing.ascends))  # fmt: skip
    return standing


def _joined(name: Name) -> str:
    return f"{name[0]}.{name[1]}"


def _parted(name: str) -> Name:
    item, restart = map(int, name.split("."))
    return item, restart
