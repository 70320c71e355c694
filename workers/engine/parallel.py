"""Several processes that train one network: started by torchrun, each with a slice of every batch.

Gradients, batch statistics and decisions are those of the whole batch, so that the number of processes changes no
result by more than rounding.
"""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    def part(self, whole: int) -> slice:
        """This process's share of a batch. Raises ValueError for a batch that has no equal shares."""
        if whole % self.size:
            raise ValueError(f"batch_size is {whole}; allowed: multiples of {self.size}, the number of processes")
        n = whole // self.size
        return slice(self.rank * n, (self.rank + 1) * n)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes, the same to the last bit in each; every process must call."""
        if self.size > 1:
            dist.all_reduce(values)
            values = values / self.size
        return values

    def from_first(self, value: T) -> T:
        """The value that rank 0 has; every process must call."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with gradients and batch statistics over all processes; weights keep their names in `model`."""
        if self.size == 1:
            return model
        device = next(model.parameters()).device
        _synchronise(model, SyncBatchNorm if device.type == "cpu" else nn.SyncBatchNorm)
        return DistributedDataParallel(model, gradient_as_bucket_view=True)


def join(device: str) -> tuple[World, str]:
    """The processes that torchrun started, and this one's device; the given one where torchrun did not."""
    if "RANK" not in os.environ:
        return World(), device
    if device.startswith("cuda"):
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is summed over them too, as each process's loss depends on it."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        y = x.clone()
        dist.all_reduce(y)
        return y

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        g = grads[0].contiguous().clone()
        dist.all_reduce(g)
        return g


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes, which must be equally large; on any device."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        if input.dim() < 2:
            raise ValueError(f"expected [N, C, ...], got {list(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        axes, shape, size = [i for i in range(x.dim()) if i != 1], [1, -1] + [1] * (x.dim() - 2), dist.get_world_size()
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        mean: Tensor = _Sum.apply(y.mean(axes)) / size
        y = y - mean.view(shape)
        variance: Tensor = _Sum.apply(y.square().mean(axes)) / size
        self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1] * size)
        y = y * (variance + self.eps).rsqrt().view(shape)
        return (y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y).to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, n: int) -> None:
        """Move the running statistics; the variance is the unbiased one, as in torch's batch norm."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (n / max(n - 1, 1)), weight)


def _synchronise(module: nn.Module, kind: Any) -> None:
    """Put a `kind` with the same tensors in the place of every batch norm."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            new = kind(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            new._parameters, new._buffers = child._parameters, child._buffers
            module.add_module(name, new)
        else:
            _synchronise(child, kind)
