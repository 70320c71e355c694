"""A layer of a network as the batcher descends it: with frozen weights, folded batch norms, in a declared precision."""

import warnings
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine import layers, residual
from workers.engine.frozen import Frozen, freeze
from workers.engine.network import Network
from workers.engine.pgd import Function

Precision = Literal["fp32", "tf32", "bf16"]
"""fp32: as it says. tf32: convolutions and products with 10 bits of mantissa, on GPUs that have it; elsewhere fp32.
bf16: autocast to bfloat16; pixels, objective and step stay fp32, and so do a search's last steps (`Program.exact`)."""

FUSED_WITHIN = 0.05
"""How far R(x) may move by fusion, relative to its norm: rounding in bf16 stays below, a wrong layer goes far above."""
FUSED_ALONG = 0.5
"""Of its gradient, the least cosine: bf16 turns that of a deep network by some .3, a wrong one is at right angles."""
MOST_COMPILED = 256
"""Batch sizes of functions that one process compiles; PyTorch's own limit is fewer than one lane has."""


def descent(
    network: Network,
    layer: str,
    identity_relu: bool,
    pool: layers.Pool,
    precision: Precision,
    size: int,
    compiled: bool = False,
) -> Function:
    """x [N, 3, size, size] -> R [N, K], float32, for one forward pass and one vector-Jacobian product a step.

    `compiled` runs it through torch.compile. Raises ValueError for a layer or precision that is not there.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(get_args(Precision))}")
    dtype = torch.bfloat16 if precision == "bf16" else None
    example = torch.linspace(0, 1, 2 * 3 * size * size).view(2, 3, size, size).to(network.mean)
    frozen = freeze(network, example, dtype)
    if layer in frozen.folded:  # the layer is what the convolution puts out before its batch norm
        frozen = Frozen(network, [], dtype)
    net: Any = frozen.net
    casting = partial(torch.autocast, network.mean.device.type, torch.bfloat16, dtype is not None, cache_enabled=False)
    with casting():  # finding a layer runs the network
        f = layers.function(net, layer, identity_relu, pool)
        if layer in ("penultimate", "logits") and not compiled:
            f = _fused(net, layer, identity_relu, dtype or torch.float32, f, example)

    def in_precision(x_NCHW: Tensor) -> Tensor:
        with casting():
            return f(x_NCHW).float()

    return _compiled(in_precision) if compiled else in_precision


def _fused(net: Network, layer: str, identity_relu: bool, dtype: torch.dtype, f: Function, example: Tensor) -> Function:
    """`f` by the kernels of `residual`, where the GPU and the network have them and a trial finds the same."""
    if not example.is_cuda or torch.version.cuda is None or torch.cuda.get_device_capability(example.device) < (8, 0):
        return f
    represent = residual.represent(net, identity_relu, dtype)
    if represent is None:
        return f
    fused = represent if layer == "penultimate" else lambda x_NCHW: net.classify(represent(x_NCHW))
    try:
        (r, g), (fused_r, fused_g) = (_with_gradient(each, example) for each in (f, fused))
    except torch.OutOfMemoryError:
        raise
    except Exception as e:  # a kernel that this GPU's libraries lack, or a compiler that the system lacks
        warnings.warn(f"fused kernels failed, going on without: {e}", stacklevel=2)
        return f
    same = (fused_r - r).norm() / r.norm() < FUSED_WITHIN and F.cosine_similarity(fused_g, g, dim=0) > FUSED_ALONG
    return fused if same else f


def _with_gradient(f: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    """R(x) and the gradient of its sum, flat."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        r = f(x)
    (g,) = torch.autograd.grad(r.sum(), x)
    return r.detach().flatten(), g.flatten()


def _compiled(f: Function) -> Function:
    """`f` through torch.compile, anew for each size of batch; as it is from the first time on that this fails."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_COMPILED)
    fast = [torch.compile(f, dynamic=False)]

    def either(x_NCHW: Tensor) -> Tensor:
        if not fast:
            return f(x_NCHW)
        try:
            return fast[0](x_NCHW)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:  # no compiler, or a network that it cannot take: `f` itself raises what is its fault
            warnings.warn(f"torch.compile failed, going on without: {e}", stacklevel=2)
            fast.clear()
            return f(x_NCHW)

    return either
