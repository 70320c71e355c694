"""Any layer of a network as a function of the image, for objectives that read other layers than the penultimate.

A named layer is read in a private copy of the module tree that shares the weights: threads share the network, so it is
given no hook, and it is not traced either, which would switch it to train mode for a moment.
"""

import copy
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from workers.engine.network import Network
from workers.engine.pgd import Function

Pool = Literal["mean", "flatten"]
NAMED_IN_ERROR = 14


class _Reached(Exception):  # noqa: N818 - not an error: the way out of a forward pass
    """Carries a layer's output out of the forward pass, before anything after it runs or changes it in place."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def function(model: Network, layer: str, identity_relu: bool = False, pool: Pool = "mean") -> Function:
    """The activations [N, K] of `layer` of a network in eval mode, for pixels x [N, 3, H, W] in [0, 1].

    `layer` is "penultimate" (R(x)), "logits", or a name in `shapes`: what that module puts out, so that "blocks.1" of
    the CIFAR network is before its ReLU and torchvision's "net.layer3" after. Of activations [N, C, H, W], pool "mean"
    gives each channel's mean over positions, K = C (Lucid's channel objective), and "flatten" every unit, K = C H W,
    unit (c, h, w) at (c H + h) W + w. `identity_relu` passes gradients through the network's last ReLU unchanged; a
    layer before that ReLU does not depend on it. Raises ValueError for another layer or pool.
    """
    if pool not in get_args(Pool):
        raise ValueError(f"pool is {pool!r}; allowed: {', '.join(get_args(Pool))}")
    if layer == "penultimate":
        return partial(model.represent, identity_relu=identity_relu)
    if layer == "logits":
        return partial(model, identity_relu=identity_relu)
    names = sorted(shapes(model, model.trial_size), key=lambda name: name.count("."))
    if layer not in names:
        more = ", ..." if len(names) > NAMED_IN_ERROR else ""
        raise ValueError(f"layer is {layer!r}; allowed: {', '.join(names[:NAMED_IN_ERROR])}{more}")
    private = _private(model)
    private.get_submodule(layer).register_forward_hook(_leave)

    def activations(x_NCHW: Tensor) -> Tensor:
        try:
            y: Tensor = private(x_NCHW, identity_relu=identity_relu)
        except _Reached as reached:
            y = reached.output
        return y.flatten(2).mean(dim=2) if pool == "mean" and y.dim() > 2 else y.flatten(1)

    return activations


@torch.no_grad()
def shapes(model: Network, size: int) -> dict[str, list[int]]:
    """The shape of one image's activations, [K] or [C, H, W], by layer, for images 3 x `size` x `size`.

    "penultimate" and "logits" come first, then the modules that a forward pass calls once and that put out one tensor,
    in the order of `named_modules`: a ReLU that a block uses twice has no one output.
    """
    private, outputs = _private(model), dict[str, list[list[int]]]()
    for name, module in private.named_modules():
        outputs[name] = []
        module.register_forward_hook(partial(_keep_shape, outputs[name]))
    r_NK = private.represent(torch.zeros(1, 3, size, size, dtype=model.mean.dtype, device=model.mean.device))
    ends = {"penultimate": list(r_NK.shape[1:]), "logits": list(private.classify(r_NK).shape[1:])}
    return ends | {name: kept[0] for name, kept in outputs.items() if len(kept) == 1 and kept[0]}


def _private(model: Network) -> Network:
    """A copy of the modules around the same weights and buffers; eval mode, in which a forward pass changes neither."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, dict[int, Any](weights)).eval()


def _leave(_module: nn.Module, _args: Any, output: Tensor) -> None:
    raise _Reached(output)


def _keep_shape(kept: list[list[int]], _module: nn.Module, _args: Any, output: Any) -> None:
    kept.append(list(output.shape[1:]) if isinstance(output, Tensor) else [])
