"""Data sets in memory as tensors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Images:
    """`pixels` uint8 [N, 3, H, W] and `labels` int64 [N]."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1], channels last in memory."""
    return pixels.to(torch.float32).div_(255).contiguous(memory_format=torch.channels_last)


def load_npz(path: Path) -> Images:
    """An .npz file with `images` uint8 [N, H, W, 3] and `labels` integers [N]. Raises ValueError for anything else."""
    with np.load(path, allow_pickle=False) as f:
        if not {"images", "labels"} <= set(f.files):
            raise ValueError(f"{path}: expected arrays images and labels, found {', '.join(f.files) or 'none'}")
        images, labels = f["images"], f["labels"]
    right = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not (right and labels.shape == images.shape[:1] and np.issubdtype(labels.dtype, np.integer)):
        found = f"images {images.dtype} {list(images.shape)}, labels {labels.dtype} {list(labels.shape)}"
        raise ValueError(f"{path}: expected images uint8 [N, H, W, 3] and integer labels [N], found {found}")
    return Images(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels.astype(np.int64)))


def load_cifar10(folder: Path, train: bool) -> Images:
    """CIFAR-10 from `cifar10_train.npz` / `cifar10_test.npz` in `folder`, or else from torchvision's layout there."""
    npz = folder / f"cifar10_{'train' if train else 'test'}.npz"
    if npz.exists():
        return load_npz(npz)
    from torchvision.datasets import CIFAR10  # here: it takes as long to import as torch, and few need it

    data = CIFAR10(str(folder), train=train, download=False)
    return Images(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets))
