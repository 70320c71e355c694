"""A network as an attack needs it: in eval mode, for gradients of its input alone, with less to compute."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

FOLDED_WITHIN = 1e-3
"""How far logits may move by folding, relative to their norm: rounding stays below, a wrong fold goes far above."""

Pair = tuple[str, str]
"""Names of a convolution and of the batch norm that reads it."""


class Frozen(nn.Module):
    """A copy of `model` in eval mode whose weights need no gradient; `refresh` brings it up to date.

    The batch norms of `pairs` are folded into their convolutions (`folded`): in eval mode both are linear. Convolutions
    and linear layers are kept as `dtype` if given, so that autocast has no weights to convert at each step.
    """

    def __init__(self, model: nn.Module, pairs: list[Pair], dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.folded = frozenset(conv for conv, _ in pairs)
        self.net = copy.deepcopy(model).eval().requires_grad_(False)
        self._live = [(model.get_submodule(conv), model.get_submodule(bn)) for conv, bn in pairs]
        self._mine: list[Any] = [_folded(self.net, *pair) for pair in pairs]
        for module in self.net.modules():
            if dtype and isinstance(module, nn.Conv2d | nn.Linear):
                module.to(dtype)
        folded = {f"{conv}.{name}" for conv, _ in pairs for name in ("weight", "bias")}
        mine = {name: value for name, value in self.net.state_dict().items() if name not in folded}
        live = model.state_dict()
        self._rest = list(mine.values()), [live[name] for name in mine]
        self.eval().refresh()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits

    @torch.no_grad()
    def refresh(self) -> None:
        """Take the weights and running statistics that `model` has now."""
        if self._rest[0]:
            torch._foreach_copy_(*self._rest)
        if not self._live:
            return
        live: list[Any] = [conv for conv, _ in self._live]
        norms: list[Any] = [bn for _, bn in self._live]
        variances = torch._foreach_add([bn.running_var for bn in norms], [bn.eps for bn in norms])
        scales = torch._foreach_div([bn.weight for bn in norms], torch._foreach_sqrt(variances))
        weights = torch._foreach_mul([conv.weight for conv in live], [s.view(-1, 1, 1, 1) for s in scales])
        means = [
            bn.running_mean if conv.bias is None else bn.running_mean - conv.bias
            for conv, bn in zip(live, norms, strict=True)
        ]
        biases = torch._foreach_sub([bn.bias for bn in norms], torch._foreach_mul(scales, means))
        torch._foreach_copy_([conv.weight for conv in self._mine], weights)
        torch._foreach_copy_([conv.bias for conv in self._mine], biases)


def freeze(model: nn.Module, example: Tensor, dtype: torch.dtype | None = None) -> Frozen:
    """`Frozen`, with every batch norm folded that can be; `example` [N, C, H, W] is an input like those to come.

    Where folding would change the function, as it does if something else reads a convolution too, none is folded. A
    trial finds that out, on statistics that are not those of a new network, whose batch norms change nothing.
    """
    pairs = _pairs(model, example)
    trial = copy.deepcopy(model).eval()
    _live_in(trial)
    with torch.no_grad():
        expected: Tensor = trial(example)
        moved = (Frozen(trial, pairs)(example) - expected).norm() / expected.norm()
    return Frozen(model, pairs if moved < FOLDED_WITHIN else [], dtype)


def _folded(net: nn.Module, conv: str, bn: str) -> nn.Module:
    """The convolution, with a bias of its own, and its batch norm gone."""
    layer: Any = net.get_submodule(conv)
    if layer.bias is None:
        layer.bias = nn.Parameter(layer.weight.new_zeros(layer.out_channels), requires_grad=False)
    parent, _, name = bn.rpartition(".")
    setattr(net.get_submodule(parent), name, nn.Identity())
    return layer  # type: ignore[no-any-return]


def _pairs(model: nn.Module, example: Tensor) -> list[Pair]:
    """Convolutions and batch norms, each called once, of which the second got what the first returned."""
    returned: dict[int, tuple[str, Tensor]] = {}
    calls: list[str] = []
    pairs: list[Pair] = []
    trial = copy.deepcopy(model).eval()

    def hook(name: str) -> Any:
        def called(module: Any, x: tuple[Tensor, ...], y: Tensor) -> None:
            calls.append(name)
            if isinstance(module, nn.Conv2d):
                returned[id(y)] = name, y  # kept alive, so that no other tensor has its id
            elif id(x[0]) in returned and module.affine and module.track_running_stats:
                pairs.append((returned[id(x[0])][0], name))

        return called

    for name, module in trial.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        trial(example)
    return [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)]


def _live_in(model: nn.Module) -> None:
    """Give every batch norm seeded statistics and weights that change what passes through."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            tensors = (module.running_mean, 0.0), (module.running_var, 1.0), (module.weight, 1.0), (module.bias, 0.0)
            for tensor, around in tensors:
                assert tensor is not None
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * 0.6 + (around - 0.3))
