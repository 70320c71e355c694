"""Networks and data sets as requests to be registered. A worker checks each before jobs may name it."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from service.requests import Submission
from service.schemas import ClassName, Finite, JobParameters, Name, Request

Path = Annotated[str, Field(max_length=500, pattern=r"^[A-Za-z0-9._ /=-]*$", description="Plain characters, no ..")]
Line = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]
Channels = Annotated[list[Finite], Field(min_length=3, max_length=3)]
Deviations = Annotated[list[Annotated[Finite, Field(gt=0)]], Field(min_length=3, max_length=3)]


class TrainedSource(Request):
    """What a finished training job made, under another name."""

    source: Literal["training"]
    job: str = Field(min_length=1, max_length=40, pattern=r"^job_[0-9a-f]+$")


class TorchvisionSource(Request):
    """Weights that torchvision publishes. They are read from the worker's weights folder, or downloaded to it."""

    source: Literal["torchvision"]
    weights: str = Field(
        max_length=100, pattern=r"^[A-Za-z0-9_]+_Weights\.[A-Za-z0-9_]+$",
        description="Such as ResNet50_Weights.IMAGENET1K_V1",
    )  # fmt: skip


Format = Annotated[
    Literal["auto", "safetensors", "state-dict", "robustness", "training"],
    Field(description="robustness: what the library of that name writes; training: a checkpoint of a training job"),
]


class UploadedSource(Request):
    """A checkpoint posted to /v1/checkpoints."""

    source: Literal["upload"]
    checkpoint: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="As answered by POST /v1/checkpoints")
    format: Format = "auto"


class ObjectSource(Request):
    """A checkpoint in the service's own bucket."""

    source: Literal["object"]
    key: Path = Field(min_length=1, description="Under imports/")
    format: Format = "auto"


class ModelRegistration(Submission):
    """A network for jobs to name."""

    name: Name
    title: Line = ""
    source: Annotated[TrainedSource | TorchvisionSource | UploadedSource | ObjectSource, Field(discriminator="source")]
    architecture: Name | None = Field(None, description="Needed unless the source tells: training, torchvision")
    input_size: int | None = Field(None, ge=16, le=1024, description="Pixels; left out: the architecture's")
    mean: Channels | None = Field(None, description="Left out: the checkpoint's own, or the architecture's")
    std: Deviations | None = None
    dataset: Name | None = Field(
        None, description="Labelled images that the network should get right; its classes are the network's"
    )
    classes: list[ClassName] | None = Field(
        None, min_length=2, max_length=100_000, description="Left out: the data set's"
    )
    least_accuracy: Finite | None = Field(
        None, ge=0, le=1, description="On a sample of the data set; below it, refused. Left out: better than chance"
    )
    norm: Literal["l2", "linf"] | None = Field(None, description="For the card: of the training's attack")
    eps: Finite | None = Field(None, ge=0, le=1e4, description="For the card: its radius; 0: standard training")
    twin: Name | None = None
    judge: Name | None = None
    licence: Line = ""

    @model_validator(mode="after")
    def _distinct(self) -> "ModelRegistration":
        if self.classes and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a class twice")
        return self


class DatasetRegistration(Submission):
    """A data set for jobs to name."""

    name: Name
    title: Line = ""
    format: Literal["cifar10", "npz", "image_folder", "imagenet", "restricted_imagenet", "webdataset", "images"] = (
        Field(description="images: files without labels")
    )
    root: Literal["folder", "bucket"] = Field(
        "folder", description="folder: under the datasets folder; bucket: in the service's own, under imports/"
    )
    path: Path = Field(description="Below the root; for npz, the file")
    split: Literal["train", "test"] = Field("test", description="For cifar10")
    balanced: bool = Field(False, description="For restricted_imagenet: as many images of each class")
    sample: int = Field(200, ge=1, le=10_000, description="So many images are decoded to see that they can be")
    mean: Channels | None = Field(None, description="What training subtracts; left out: the format's, or ImageNet's")
    std: Deviations | None = None
    licence: Line = ""


class RegistrationParameters(JobParameters):
    """A registration's parameters: the request as it was sent."""

    request: dict[str, Any]
    resolved: dict[str, Any]
    """What the API looked up for the worker: keys of objects, digests."""
