"""How near an image comes to another, in representation and in pixels; one number for each example."""

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.constraints import FLOOR, norm

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation, in pixels, of the Gaussian window of `ssim`."""
C1, C2 = 0.01**2, 0.03**2
"""(K1 L)^2 and (K2 L)^2 for pixels in [0, 1], so a data range L of 1."""
COLLINEAR = 1e-10
"""1 - r^2 of two endpoints of `ghosting` that count as one; a pixel off by 1/255 leaves more, at 224 pixels too."""


def relative_distance(r_NK: Tensor, target_NK: Tensor) -> Tensor:
    """||R - t||_2 / ||t||_2, [N]: the loss of a `relative` inversion, with the same floor under ||t||."""
    return norm(r_NK - target_NK) / (norm(target_NK) + FLOOR)


def pixel_l2(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """||a - b||_2 in pixel units, [N]: the distance that the radius of an attack bounds."""
    return norm(a_NCHW - b_NCHW)


def ssim(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Structural similarity, [N], of images in [0, 1]; 1 for equal images.

    Wang, Bovik, Sheikh and Simoncelli 2004, equation 13 averaged as in equation 17: population moments under a Gaussian
    window, at the positions where it fits whole, then the mean of the channels' values.
    Raises ValueError if the shapes differ or an image is smaller than the window.
    """
    if a_NCHW.shape != b_NCHW.shape or a_NCHW.dim() != 4 or min(a_NCHW.shape[2:]) < WINDOW:
        raise ValueError(
            f"expected two [N, C, H, W] of one shape, H and W at least {WINDOW}, "
            f"got {tuple(a_NCHW.shape)} and {tuple(b_NCHW.shape)}"
        )
    # The variances below are small differences of products, and a GPU may convolve float32 in TensorFloat-32.
    a, b = a_NCHW.double(), b_NCHW.double()
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a, var_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (var_a + var_b + C2)
    return (luminance * structure).mean(dim=(1, 2, 3)).to(a_NCHW.dtype)


def ghosting(x_NCHW: Tensor, first_NCHW: Tensor, second_NCHW: Tensor) -> Tensor:
    """How much of x is a double exposure of two endpoint images, [N], in [0, 1].

    The share of x's variance, over all pixels and channels, that the least-squares combination of both endpoints
    explains, less the share that the better one explains alone. 0 for an endpoint in any contrast and brightness, .5
    for the half blend of two uncorrelated images of equal variance, about 1 / (C H W) for noise; 0 too where an image
    is constant or the endpoints are collinear. Raises ValueError if the shapes differ.
    """
    if not x_NCHW.shape == first_NCHW.shape == second_NCHW.shape or x_NCHW.dim() != 4:
        shapes = ", ".join(str(tuple(image.shape)) for image in (x_NCHW, first_NCHW, second_NCHW))
        raise ValueError(f"expected three [N, C, H, W] of one shape, got {shapes}")
    x, first, second = (_standard(image) for image in (x_NCHW, first_NCHW, second_NCHW))
    r_first, r_second, r_between = ((a * b).sum(dim=1) for a, b in ((x, first), (x, second), (first, second)))
    swap = r_second.abs() > r_first.abs()
    better, worse = torch.where(swap, r_second, r_first), torch.where(swap, r_first, r_second)
    # The 2 x 2 normal equations, less better^2: what the other endpoint explains of the rest.
    free = 1 - r_between**2
    gain = (worse - better * r_between) ** 2 / free.clamp_min(COLLINEAR)
    return torch.where(free < COLLINEAR, 0, gain.clamp(0, 1)).to(x_NCHW.dtype)


def _standard(x_NCHW: Tensor) -> Tensor:
    """Each example in float64, its mean removed, divided by its norm: [N, C H W]; a constant image becomes zero."""
    x = x_NCHW.double().flatten(1)
    x = x - x.mean(dim=1, keepdim=True)
    return x / norm(x)[:, None].clamp_min(FLOOR)


def _smooth(x_NCHW: Tensor) -> Tensor:
    """The local mean under the Gaussian window, one axis at a time: [N, C, H - 10, W - 10]."""
    n, c, h, w = x_NCHW.shape
    offset = torch.arange(WINDOW, dtype=x_NCHW.dtype, device=x_NCHW.device) - WINDOW // 2
    weight = torch.softmax(-(offset**2) / (2 * SIGMA**2), dim=0)
    y = F.conv2d(x_NCHW.reshape(n * c, 1, h, w), weight.view(1, 1, -1, 1))
    return F.conv2d(y, weight.view(1, 1, 1, -1)).view(n, c, h - WINDOW + 1, w - WINDOW + 1)
