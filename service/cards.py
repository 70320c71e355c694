"""What is known of the models, data sets, architectures and recipes that requests can name."""

from pydantic import BaseModel, ConfigDict, Field


class RecipeCard(BaseModel):
    """One of the paper's figures, as a recipe."""

    name: str
    title: str
    request: str = Field(description="The schema of its request, in /openapi.json")


class ModelCard(BaseModel):
    """A shipped or registered network. Accuracies are fractions of `test_images` images, where they were measured."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    architecture: str
    input_size: int
    features: int
    classes: list[str]
    digest: str
    twin: str | None = None
    judge: str | None = Field(None, description="The network that judges its results, unless a job names one")
    epsilon: float | None = Field(None, description="Radius of the training's attack; 0: trained on clean images")
    clean_accuracy: float | None = None
    pgd20_accuracy: float | None = None
    identity_relu: bool = Field(True, description="Whether gradients can pass its last ReLU unchanged")
    layers: dict[str, list[int]] = Field({}, description="Shape of one image's activations by layer name")


class Architecture(BaseModel):
    """A network that can be trained or loaded."""

    input_size: int = Field(description="Pixels of a side that it is usually given")
    features: int | None = Field(description="Coordinates of its representation, where known without building it")
    identity_relu: bool = Field(description="Whether gradients can pass its last ReLU unchanged")
    fixed_size: bool = Field(False, description="Whether it takes no other")


class DatasetCard(BaseModel):
    """A data set that jobs can name."""

    model_config = ConfigDict(extra="allow")

    name: str
    title: str
    size: int
    image_size: int | None = Field(description="Pixels of a side; null: its images are of several sizes")
    classes: list[str] = Field(description="Empty: its images have no labels")
    digest: str
    licence: str
    unlabelled: int = Field(0, description="Images without a label, where others have one")
    mean: list[float] | None = Field(None, description="Of each channel, which networks trained on it subtract")
    std: list[float] | None = None
