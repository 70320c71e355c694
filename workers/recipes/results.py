"""An item's files: pictures, the animation, the trace, and every tensor exactly."""

import csv
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from workers.engine import figures

PICTURES = {"target": "target", "start": "start", "result": "image"}
SETS = ("top", "bottom")
TRACE_POINTS = 512
"""Most points in trace.json; result.safetensors holds every step."""
Files = dict[str, tuple[bytes, str]]
"""Bytes and media type by name."""


def files(tensors: dict[str, Tensor], curve: str, provenance: dict[str, Any]) -> Files:
    """The files of one item from its tensors; `curve` names the quantity that its trace shows beside the loss."""
    found: Files = {
        f"{name}.png": (figures.png(tensors[key]), "image/png") for name, key in PICTURES.items() if key in tensors
    }
    for name in SETS:
        for i, image in enumerate(tensors.get(name, ())):
            found[f"{name}-{i + 1}.png"] = (figures.png(image), "image/png")
    if "frames" in tensors:
        found["path.gif"] = (figures.gif(tensors["frames"]), "image/gif")
        found["frames.png"] = (figures.sheet(tensors["frames"]), "image/png")
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    tensor_file = save(tensors, metadata={"provenance": json.dumps(provenance)})
    return found | {
        "result.safetensors": (tensor_file, "application/octet-stream"),
        "trace.json": (json.dumps(thin(tensors, curve)).encode(), "application/json"),
    }


def thin(tensors: dict[str, Tensor], curve: str) -> dict[str, list[float] | list[float | None]]:
    """At most TRACE_POINTS steps of the trace, the first and the last among them; no gradient is taken at the last.

    `frame_steps`, where there are frames, are those that the frames were taken before.
    """
    loss, shown, grad_norm = (tensors[name].numpy() for name in ("loss", curve, "grad_norm"))
    steps = kept_steps(len(loss))
    framed = {"frame_steps": tensors["frame_steps"].tolist()} if "frame_steps" in tensors else {}
    return framed | {
        "step": steps.tolist(),
        "loss": loss[steps].tolist(),
        curve: shown[steps].tolist(),
        "grad_norm": [*grad_norm[steps[:-1]].tolist(), None],
    }


@lru_cache
def kept_steps(count: int) -> NDArray[np.int64]:
    """Which of so many points of a trace are shown."""
    return np.unique(np.linspace(0, count - 1, TRACE_POINTS).round().astype(np.int64))


def table(rows: Sequence[dict[str, Any]]) -> bytes:
    """The rows as CSV; a column that a row lacks is empty there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
