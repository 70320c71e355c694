"""A layer of a network as the batcher descends it: with frozen weights, folded batch norms, in a declared precision."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from workers.engine import layers
from workers.engine.frozen import freeze
from workers.engine.network import Network
from workers.engine.pgd import Function

Precision = Literal["fp32", "tf32", "bf16"]
"""fp32: as it says. tf32: convolutions and products with 10 bits of mantissa, on GPUs that have it; elsewhere fp32.
bf16: autocast to bfloat16; pixels, objective and step stay fp32, and so does every measurement of a result."""


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
    layers.function(network, layer, identity_relu, pool)  # raises, for a layer that is not there, before all the work
    dtype = torch.bfloat16 if precision == "bf16" else None
    example = torch.linspace(0, 1, 2 * 3 * size * size).view(2, 3, size, size).to(network.mean)
    frozen = freeze(network, example, dtype)
    if layer in frozen.folded:  # the layer is what the convolution puts out before its batch norm
        frozen = freeze(network, example, dtype, fold=False)
    net: Any = frozen.net
    f = layers.function(net, layer, identity_relu, pool)
    device = network.mean.device.type

    def in_precision(x_NCHW: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
            return f(x_NCHW).float()

    return torch.compile(in_precision, dynamic=False) if compiled else in_precision
