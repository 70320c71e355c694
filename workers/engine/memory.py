"""How many rows of a network fit a device: the activations of one, measured, against what is free."""

import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from workers.engine.pgd import Function

SHARE = 0.7
"""Of the free memory, what rows may take: the rest is for workspaces and neighbours."""
BACKWARD = 2.0
"""Bytes of a row at the peak of its backward pass, over those that the forward pass keeps for it."""
NO_MEMORY = "can't allocate memory", "not enough memory", "out of memory"
CGROUP = Path("/sys/fs/cgroup")


def row_bytes(f: Function, example_1CHW: Tensor) -> int:
    """Bytes that one more row adds to what a forward pass keeps for its backward pass; weights are not a row's."""
    return _kept(f, example_1CHW.repeat(2, 1, 1, 1)) - _kept(f, example_1CHW)


def _kept(f: Function, x: Tensor) -> int:
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        r = f(x.detach().requires_grad_(True))  # alive while it is counted, so that no two storages share an address
    return sum(kept.values()) + r.nbytes


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on the device; None if the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    found = []
    with suppress(ValueError, OSError):
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ValueError, OSError):  # "max" is no number: there is no limit
        limit = int((CGROUP / "memory.max").read_text())
        found.append(limit - int((CGROUP / "memory.current").read_text()))
    return max(min(found), 0) if found else None


def rows_that_fit(f: Function, example_1CHW: Tensor, most: int) -> int:
    """The largest power of two up to `most` whose rows fit; at least 1."""
    free = free_bytes(example_1CHW.device)
    try:
        takes = BACKWARD * max(row_bytes(f, example_1CHW), 1)
        fit = most if free is None else min(most, int(SHARE * free / takes))
    except (RuntimeError, MemoryError) as e:
        if is_out_of_memory(e):
            return 1
        raise
    return 1 << (max(fit, 1).bit_length() - 1)


def is_out_of_memory(error: Exception) -> bool:
    """PyTorch names its class on a GPU alone."""
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY))
