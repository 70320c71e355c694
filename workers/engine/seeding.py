"""Randomness that depends on a key alone, so that an item draws the same numbers alone, in a batch, or resumed."""

import numpy as np
import torch


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by all of `key` (integers >= 0) and by nothing else."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
