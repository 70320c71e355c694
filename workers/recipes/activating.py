"""The images of a whole data set that activate each direction most and least, by forward passes alone."""

import json
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from service.catalog import label_of
from service.evaluation import ActivatingParameters
from service.models import Item
from workers.context import ShardContext
from workers.engine import figures, layers
from workers.engine.datasets import to_float
from workers.recipes.evaluation import Stopped, chosen, provenance, share, stored
from workers.recipes.reading import read_pixels
from workers.recipes.results import table
from workers.runtime import Hopeless

EXTREMES, BATCH = "extremes.safetensors", 128
ENDS = {"top": True, "bottom": False}
"""Whether an end has the largest activations."""


def run(ctx: ShardContext) -> None:
    """Rank the shard's runs of images, or put all of them together. Raises Hopeless, LeaseLost or StorageError."""
    p = ActivatingParameters.model_validate(ctx.work.parameters)
    share(ctx, partial(ranked, ctx, p), partial(merged, ctx, p))


def weights(p: ActivatingParameters, k: int) -> Tensor:
    """The directions as rows [D, K]."""
    rows = torch.zeros(len(p.directions), k)
    for row, direction in zip(rows, p.directions, strict=True):
        for coordinate, weight in direction["terms"]:
            row[coordinate] += weight
    return rows


@torch.no_grad()
def ranked(ctx: ShardContext, p: ActivatingParameters, item: Item) -> None:
    """The extremes of one run of images, by direction. Raises Stopped."""
    dataset, wanted = chosen(ctx, p, item)
    network, device = ctx.runtime.models.get(p.model, p.model_digest), ctx.runtime.models.device
    try:
        function = layers.function(network, p.layer, False, p.pool)
    except ValueError as e:
        raise Hopeless(str(e)) from e
    size, scores, places = ctx.runtime.catalog.models[p.model].input_size, list[Tensor](), list[int]()
    for start in range(0, len(wanted), BATCH):
        if ctx.should_stop():
            raise Stopped
        x, kept = read_pixels(dataset, wanted[start : start + BATCH], size, p.resize)
        if not kept:
            continue
        places += kept
        with ctx.turns:
            r_NK = function(to_float(x.to(device)))
            scores.append((r_NK @ weights(p, r_NK.shape[1]).to(r_NK).T).cpu())
        ctx.alive()
    if not places:
        ctx.fail(item.index, "Images cannot be read", f"none of the {len(wanted)} images of this run can be read")
        return
    found = extremes(torch.cat(scores).T, torch.tensor(places).expand(len(p.directions), -1), p.k)
    ctx.save(
        item.index, {"images": len(places)}, provenance(ctx), {EXTREMES: (save(found), "application/octet-stream")}
    )


def extremes(scores_DN: Tensor, places_DN: Tensor, k: int) -> dict[str, Tensor]:
    """The k best of either end, best first; of equal scores the earlier image. `top` and `top_places` [D, k], ..."""
    found = dict[str, Tensor]()
    for end, largest in ENDS.items():
        order = scores_DN.argsort(dim=1, descending=largest, stable=True)[:, :k]
        found |= {end: scores_DN.gather(1, order), f"{end}_places": places_DN.gather(1, order)}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def merged(ctx: ShardContext, p: ActivatingParameters, item: Item) -> None:
    """The extremes of all runs: a table, a picture of each, and every number."""
    runs = [load(data) for data in stored(ctx, EXTREMES, ctx.work.lease.job_id)]
    found = dict[str, Tensor]()
    for end in ENDS:
        scores, places = (torch.cat([each[name] for each in runs], dim=1) for name in (end, f"{end}_places"))
        both = extremes(scores, places, p.k)
        found |= {name: both[name] for name in (end, f"{end}_places")}
    dataset = ctx.runtime.catalog.datasets[p.dataset]
    size, rows, files = ctx.runtime.catalog.models[p.model].input_size, [], dict[str, Any]()
    for d, direction in enumerate(p.directions):
        for end in ENDS:
            best = found[f"{end}_places"][d].tolist()
            for rank, (place, value) in enumerate(zip(best, found[end][d].tolist(), strict=True), 1):
                row = {"direction": direction["label"], "end": end, "rank": rank, "index": place}
                row["class"] = label_of(dataset, place)
                rows.append(row | {"activation": value})
            strip = to_float(read_pixels(dataset, best, size, p.resize)[0])
            files[f"{end}-{d}.png"] = (figures.png(torch.cat(list(strip), dim=2)), "image/png")
            ctx.alive()
    files |= {
        "extremes.csv": (table(rows), "text/csv"),
        "extremes.json": (json.dumps(rows, indent=1).encode(), "application/json"),
        EXTREMES: (save(found), "application/octet-stream"),
    }
    ctx.save(item.index, {"images": p.images, "directions": len(p.directions)}, provenance(ctx), files)
