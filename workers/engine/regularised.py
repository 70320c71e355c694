"""Regularised feature visualisation, the baseline of the paper's figure 10: ascent on a transformed parametrisation.

    params <- Adam(params, v^T d f(transform(decode(params))) / d params);  x = decode(params)

After Olah, Mordvintsev and Schubert 2017, "Feature Visualization", with the conventions of their library, Lucid.
Images are [N, 3, H, W] with pixels in [0, 1]; no example depends on the others in its batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from workers.engine.constraints import norm
from workers.engine.objectives import Objective
from workers.engine.pgd import Function, Observer

GRAY = 0.5
"""The pixel value of everything outside an image."""
MARGIN = 0.01
"""How near a pixel of a start may be to 0 or 1, where the logit is infinite."""
ATTENUATION = 4.0
"""What Lucid divides a Fourier image by; Adam's steps do not depend on the gradient's scale, so it sets their size."""
COLOUR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.0, -0.05), (0.27, -0.09, 0.03))
"""Lucid's square root of the covariance of ImageNet's colours: rows are R, G and B."""


@dataclass(frozen=True)
class Regularization:
    """What the ascent is regularised by; the defaults are Lucid's, for images of 224 pixels.

    `jitter` and `final_jitter` are the full ranges, in pixels, of the uniform shifts along each axis before and after
    the scaling and the rotation: 8 is up to 4 either way. For other images the caller multiplies both by size / 224.
    `scale` is the largest relative change of size and `rotate` the largest angle, in degrees, either way; both are
    drawn uniformly. Lucid draws whole pixels, 11 factors and whole degrees with 0 preferred; these are continuous.

    `decay` is the exponent of the 1 / frequency amplitudes that the Fourier parametrisation starts its steps from.
    `decorrelate` makes the parameters colours along the principal axes of natural images.
    """

    jitter: float = 8
    scale: float = 0.1
    rotate: float = 10
    final_jitter: float = 4
    parametrization: Literal["pixel", "fourier"] = "fourier"
    decay: float = 1.0
    decorrelate: bool = True
    learning_rate: float = 0.05


def encode(x_NCHW: Tensor, settings: Regularization) -> Tensor:
    """The parameters whose image is `x`, its pixels first clamped to [MARGIN, 1 - MARGIN]; inverts `decode`.

    [N, 3, H, W] of logits, or for the Fourier parametrisation [N, 3, H, W // 2 + 1, 2] of real and imaginary parts.
    """
    logits = torch.logit(x_NCHW.clamp(MARGIN, 1 - MARGIN))
    colours = _mix(torch.linalg.inv(colour_matrix()), logits) if settings.decorrelate else logits
    if settings.parametrization == "pixel":
        return colours
    height, width = x_NCHW.shape[2:]
    spectrum = torch.fft.rfft2(colours * ATTENUATION)
    return torch.view_as_real(spectrum / _amplitudes((height, width), settings.decay, x_NCHW)).contiguous()


def decode(params: Tensor, settings: Regularization, size: tuple[int, int]) -> Tensor:
    """The image [N, 3, H, W] of `params`, pixels in [0, 1]; `size` is (H, W), which a half spectrum leaves open."""
    colours = params
    if settings.parametrization == "fourier":
        spectrum = torch.view_as_complex(params) * _amplitudes(size, settings.decay, params)
        colours = torch.fft.irfft2(spectrum, s=size) / ATTENUATION
    return torch.sigmoid(_mix(colour_matrix(), colours) if settings.decorrelate else colours)


def colour_matrix() -> Tensor:
    """Decorrelated colours to RGB logits, float64 [3, 3]: `COLOUR_ROOT` over the length of its longest column."""
    root = torch.tensor(COLOUR_ROOT, dtype=torch.float64)
    matrix: Tensor = root / torch.linalg.vector_norm(root, dim=0).max()
    return matrix


def transform(x_NCHW: Tensor, settings: Regularization, generators: Sequence[torch.Generator]) -> Tensor:
    """Each image shifted, scaled, rotated and shifted again by what its own CPU generator draws: 6 numbers a call.

    One resampling in all, in a window of the image's own size, with gray beyond the image as far as the window goes;
    so Lucid's pad of 12 gray pixels, which only makes room for its crops and its rotation, has no counterpart here.
    Differentiable in x. Raises ValueError unless there is one generator for each image.
    """
    drawn = [_draw(settings, generator) for _, generator in zip(x_NCHW, generators, strict=True)]
    return warp(x_NCHW, torch.stack(drawn))


def warp(x_NCHW: Tensor, theta_N23: Tensor) -> Tensor:
    """At each pixel (column, row), counted from the centre, the bilinear sample of x at theta @ (column, row, 1)."""
    height, width = x_NCHW.shape[2:]
    half = torch.tensor([width / 2, height / 2], dtype=theta_N23.dtype, device=theta_N23.device)
    relative = theta_N23 / half[:, None] * torch.cat([half, torch.ones_like(half[:1])])
    grid = F.affine_grid(relative.to(x_NCHW), list(x_NCHW.shape), align_corners=False)
    return F.grid_sample(x_NCHW - GRAY, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + GRAY


class Ascent:
    """Adam's steps from the parameters of `start_NCHW`; `generators` are the images' own."""

    def __init__(self, start_NCHW: Tensor, generators: Sequence[torch.Generator], settings: Regularization) -> None:
        self.size, self.generators, self.settings, self.steps = start_NCHW.shape[2:], generators, settings, 0
        self.params = encode(start_NCHW.detach(), settings).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.params], lr=settings.learning_rate)

    def image(self) -> Tensor:
        """The image [N, 3, H, W] as it is now, untransformed."""
        return decode(self.params, self.settings, (self.size[0], self.size[1]))

    def run(self, f: Function, objective: Objective, steps: int, observe: Observer, stop: Callable[[], bool]) -> None:
        """Go on until `steps` steps are made, or `stop`, which is asked after each, says so."""
        while self.steps < steps:
            with torch.enable_grad():
                x = self.image()
                r = f(transform(x, self.settings, self.generators))
            loss, v = objective(r.detach())
            (self.params.grad,) = torch.autograd.grad(r, self.params, v)
            if observe(self.steps, x.detach(), loss, norm(self.params.grad)):
                return
            self.optimizer.step()
            self.steps += 1
            if stop():
                return

    def state(self) -> dict[str, Tensor]:
        """Everything that it goes on from, [N, ...] each and on the CPU, after at least one step."""
        adam = self.optimizer.state[self.params]
        draws = torch.stack([generator.get_state() for generator in self.generators])
        kept = {"params": self.params, "mean": adam["exp_avg"], "square": adam["exp_avg_sq"], "draws": draws}
        steps = torch.full((len(draws),), self.steps)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in kept.items()} | {"steps": steps}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` answered, or from some rows of it."""
        self.steps = int(state["steps"][0])
        with torch.no_grad():
            self.params.copy_(state["params"])
        moments = {"exp_avg": state["mean"].to(self.params), "exp_avg_sq": state["square"].to(self.params)}
        self.optimizer.state[self.params] = {"step": torch.tensor(float(self.steps)), **moments}
        for generator, drawn in zip(self.generators, state["draws"], strict=True):
            generator.set_state(drawn.clone())  # a view of memory crashes some versions of PyTorch


def ascend(
    f: Function,
    objective: Objective,
    start_NCHW: Tensor,
    generators: Sequence[torch.Generator],
    steps: int,
    settings: Regularization,
    observe: Observer = lambda *_: False,
) -> Tensor:
    """`steps` steps of Adam from the parameters of `start`; returns the image of the last, untransformed.

    Like `pgd` it descends the objective, which to ascend an activation is its negative. The observer sees the
    untransformed image, the loss of the transformed one, and the norm of the gradient in the parameters.
    On a GPU the gradient of the resampling is summed in no fixed order, so runs agree there up to rounding only.
    """
    ascent = Ascent(start_NCHW, generators, settings)
    ascent.run(f, objective, steps, observe, lambda: False)
    return ascent.image().detach()


def _draw(settings: Regularization, generator: torch.Generator) -> Tensor:
    """A transformation as `warp` takes it, float64 [2, 3]: from a pixel of the result back to one of the image."""
    u = 2 * torch.rand(6, generator=generator, dtype=torch.float64) - 1
    factor, angle = 1 + settings.scale * u[2].item(), math.radians(settings.rotate * u[3].item())
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    back = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    shift = settings.jitter / 2 * u[:2] + back @ (settings.final_jitter / 2 * u[4:])
    return torch.cat([back, shift[:, None]], dim=1)


def _amplitudes(size: tuple[int, int], decay: float, like: Tensor) -> Tensor:
    """Lucid's scale of each coefficient of a half spectrum, [H, W // 2 + 1]; frequencies are in cycles per pixel."""
    height, width = size
    rows = torch.fft.fftfreq(height, dtype=like.dtype, device=like.device)
    columns = torch.fft.rfftfreq(width, dtype=like.dtype, device=like.device)
    frequency = torch.hypot(rows[:, None], columns[None, :])
    return math.sqrt(height * width) / frequency.clamp_min(1 / max(size)) ** decay


def _mix(matrix_33: Tensor, x_NCHW: Tensor) -> Tensor:
    return torch.einsum("rc,nchw->nrhw", matrix_33.to(x_NCHW), x_NCHW)
