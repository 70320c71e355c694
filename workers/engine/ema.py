"""A moving average of a network's weights, and which weights a checkpoint is to be used with."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """average <- d average + (1 - d) weights after each step, with d = min(decay, (1 + steps) / (10 + steps)).

    So the first, random weights are soon forgotten. Batch norms' running statistics are averaged as weights are;
    whole numbers, their counters, are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Take in the weights after `steps` steps."""
        weight = 1 - min(self.decay, (1 + steps) / (10 + steps))
        live = model.state_dict()
        floating = [name for name, value in self.state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.state[n] for n in floating], [live[n] for n in floating], weight)
        for name in self.state.keys() - set(floating):
            self.state[name].copy_(live[name])

    def load(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self.state.items():
            value.copy_(state[name])


def final_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights to use a checkpoint with, by name: their moving average if the run kept one."""
    weights: dict[str, Tensor] = checkpoint.get("ema") or checkpoint["model"]
    return weights
