"""Training as a job request: standard (paper, equation 2) and robust (equation 3), every field, bounds and presets.

A preset's values stand where the request is silent. `paper-restricted` and `paper-imagenet` are tables 2 and 3 of
Engstrom et al. 2019; `library` is what the code released with it does by default; `cifar` and `cifar-small` are ours.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from service.requests import Submission
from service.schemas import Finite, JobParameters, Name, Seed

_PAPER = {
    "norm": "l2", "eps": 3.0, "attack_steps": 7, "attack_step_size": 0.5, "random_start": True,
    "epochs": 110, "batch_size": 256, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
    "schedule": "step", "lr_factor": 0.1, "ema": 0.0, "augmentation": "imagenet",
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "paper-restricted": {**_PAPER, "lr_drops": [30, 60]},
    "paper-imagenet": {**_PAPER, "lr_drops": [100]},
    "library": {**_PAPER, "lr_drops": [100], "weight_decay": 1e-4, "random_start": False},
    "cifar": {**_PAPER, "eps": 0.5, "attack_step_size": 0.1, "epochs": 150, "batch_size": 128, "lr_drops": [50, 100],
              "augmentation": "cifar"},
    "cifar-small": {**_PAPER, "eps": 1.0, "attack_steps": 2, "attack_step_size": 0.75, "epochs": 24, "batch_size": 128,
                    "lr": 0.2, "momentum": 0.95, "schedule": "one-cycle", "lr_drops": [], "augmentation": "cifar"},
}  # fmt: skip
NORMALISATION: dict[str, dict[str, list[float]]] = {
    "cifar10": {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "restricted_imagenet": {"mean": [0.4717, 0.4499, 0.3837], "std": [0.2600, 0.2516, 0.2575]},
}
"""What networks trained on a format's images subtract from each channel, and divide it by."""
STANDARD = {"attack_steps": 0, "attack_step_size": 0.0, "random_start": False}
"""What radius 0 makes of an attack."""


class Training(Submission):
    """Train a network on a registered data set. With eps 0, on the images themselves; else on adversarial ones."""

    PRESETS: ClassVar = PRESETS

    kind: Literal["training"]
    architecture: Name = Field(description="cifar-resnet-small, resnet50, any classifier of torchvision, ...")
    dataset: Name = Field(description="What to train on")
    validation: Name | None = Field(None, description="Images held out, on which accuracies are measured")
    preset: Literal["paper-restricted", "paper-imagenet", "library", "cifar", "cifar-small"] = "paper-restricted"
    name: Name | None = Field(None, description="What to register the network as; left out: made from the job's id")
    twin: Name | None = Field(None, description="For the model card: the network to compare it with")
    judge: Name | None = Field(None, description="For the model card: the network that judges its results")
    input_size: int | None = Field(None, ge=16, le=1024, description="Pixels; left out: the data set's, or else 224")
    norm: Literal["l2", "linf"] | None = Field(None, description="The ball that adversarial images stay in")
    eps: Finite | None = Field(None, ge=0, le=1e4, description="Its radius, pixels in [0, 1]; 0: standard training")
    attack_steps: int | None = Field(None, ge=1, le=1000)
    attack_step_size: Finite | None = Field(None, gt=0, le=1e4, description="Pixels in [0, 1]")
    random_start: bool | None = None
    epochs: int | None = Field(None, ge=1, le=10_000)
    batch_size: int | None = Field(None, ge=2, le=65_536, description="Over all processes together")
    lr: Finite | None = Field(None, gt=0, le=100)
    momentum: Finite | None = Field(None, ge=0, lt=1)
    weight_decay: Finite | None = Field(None, ge=0, le=1)
    schedule: Literal["step", "one-cycle", "constant"] | None = None
    lr_drops: list[Annotated[int, Field(ge=1, le=10_000)]] | None = Field(
        None, max_length=100, description="Epochs after which lr is multiplied by lr_factor, for schedule: step"
    )
    lr_factor: Finite | None = Field(None, gt=0, le=1)
    ema: Finite | None = Field(None, ge=0, lt=1, description="Decay of the weights' moving average; 0: none")
    augmentation: Literal["none", "cifar", "imagenet"] | None = None
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: by autocast, where the device has it")
    processes: int = Field(1, ge=1, le=64, description="Processes on the worker's machine, each on a GPU of its own")
    checkpoint_seconds: int = Field(300, ge=1, le=86_400, description="How much work a crash may cost at most")
    evaluation_images: int | None = Field(
        None, ge=1, description="Validation images for the accuracies on the card; left out: all"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _consistent(self) -> "Training":
        if self.eps == 0 and (self.attack_steps or self.attack_step_size or self.random_start):
            raise ValueError("eps 0 is standard training, which has no attack: leave the attack's fields out")
        if self.lr_drops and sorted(set(self.lr_drops)) != self.lr_drops:
            raise ValueError("lr_drops must increase")
        return self

    def resolved(self) -> dict[str, Any]:
        """The preset's values with the request's in their place; an attack that eps 0 leaves out is all zeros."""
        preset = PRESETS[self.preset]
        chosen = {n: preset[n] if getattr(self, n) is None else getattr(self, n) for n in preset}
        return chosen | STANDARD if chosen["eps"] == 0 else chosen


class TrainingParameters(JobParameters):
    """A training job's parameters; its steps are the optimiser's."""

    architecture: str
    dataset: str
    dataset_digest: str
    validation: str | None
    validation_digest: str | None
    preset: str
    name: str | None
    twin: str | None
    judge: str | None
    input_size: int
    classes: list[str]
    mean: list[float]
    std: list[float]
    norm: Literal["l2", "linf"]
    eps: float
    attack_steps: int
    attack_step_size: float
    random_start: bool
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["step", "one-cycle", "constant"]
    lr_drops: list[int]
    lr_factor: float
    ema: float
    augmentation: Literal["none", "cifar", "imagenet"]
    precision: Literal["fp32", "bf16"]
    processes: int
    checkpoint_seconds: int
    evaluation_images: int | None
    seed: int
    curve: str = "loss"
