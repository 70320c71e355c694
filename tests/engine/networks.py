"""Small networks with seeded weights, for the tests of what runs on a network."""

import numpy as np
import torch

from workers.engine.models import Classifier


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> Classifier:
    """2 blocks, K = 8, 5 classes, frozen and in eval mode, with lived-in batch statistics.

    The weights come from numpy's RandomState, whose stream is fixed for good.
    """
    model, random = Classifier(stem=4, widths=(6, 8), classes=5).to(dtype), np.random.RandomState(seed)

    def normal(like: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.from_numpy(scale * random.standard_normal(like.shape))

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() > 1:
                p.copy_(normal(p, (2 / p[0].numel()) ** 0.5))
            else:
                p.copy_(normal(p, 0.2) + name.endswith("weight"))  # a batch norm's scale is near 1
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(normal(b, 0.3))
            elif name.endswith("running_var"):
                b.copy_(normal(b, 0.5).exp())
    return model.eval().requires_grad_(False)


def pixels(seed: int, n: int, size: int = 12, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Uniform noise in [0, 1], [N, 3, size, size]."""
    return torch.from_numpy(np.random.RandomState(seed).random_sample((n, 3, size, size))).to(dtype)
