"""Every kind of request to its plan."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from sqlalchemy.orm import Session

from service.catalog import Catalog
from service.evaluation import ActivatingImages, Evaluation
from service.kinds import datasets, registration, studies, training
from service.kinds.planning import Plan
from service.registration import DatasetRegistration, ModelRegistration
from service.schemas import Request
from service.settings import Settings
from service.studies import (
    FeatureManipulation,
    FeatureVisualization,
    Interpolation,
    Inversion,
    RadiusSweep,
)
from service.training import Training

JobRequest = Annotated[
    Inversion | RadiusSweep | Interpolation | FeatureVisualization | FeatureManipulation | Training | Evaluation
    | ActivatingImages,
    Field(discriminator="kind"),
]  # fmt: skip
"""The union of all kinds that clients submit as jobs, tagged by `kind`."""

Make = Callable[[Any, Catalog, Session, Settings], Plan]
PLANS: dict[type[Request], Make] = {
    Training: training.training,
    Evaluation: datasets.evaluation,
    ActivatingImages: datasets.activating_images,
    ModelRegistration: registration.model,
    DatasetRegistration: registration.dataset,
}


def plan(request: Request, catalog: Catalog, session: Session, settings: Settings) -> Plan:
    """What the job will do. Raises InvalidInput with every field that is wrong."""
    make: Make = PLANS.get(type(request), studies.plan)
    return make(request, catalog, session, settings)
