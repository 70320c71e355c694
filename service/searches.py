"""How a study searches: the solver, when it ends early, and what it may share a batch with."""

from typing import Literal

from pydantic import BaseModel, Field

from service.schemas import Finite, Request

Solver = Literal["pgd", "momentum", "adam"]
Schedule = Literal["constant", "cosine", "geometric"]
Precision = Literal["fp32", "tf32", "bf16"]


class Search(Request):
    """What every search by PGD has in common, beside its radius and its steps."""

    solver: Solver | None = Field(
        None, description="What a step follows: the gradient as in the paper (pgd), or momentum or Adam over it"
    )
    schedule: Schedule | None = Field(None, description="How the step size falls from the first step to the last")
    patience: int = Field(
        0,
        ge=0,
        le=100_000,
        description="End an item after so many steps without its least loss falling by 0.1%; 0: no",
    )
    precision: Precision = Field(
        "fp32",
        description="Of the search (bf16: but for its last fifth); results are measured in fp32. CPUs have no tf32",
    )
    deterministic: bool = Field(
        False, description="Bitwise the same result whatever shares the batch, at the cost of rows that stay idle"
    )


class Approach(Request):
    """What a search that approaches a representation has beside that."""

    stop_distance: Finite | None = Field(
        None, gt=0, description="End an item once ||R - t|| / ||t||, as the search computes it, is at most this"
    )


class SearchParameters(BaseModel):
    """The same with nothing left open. The defaults are those of jobs from before each of these existed."""

    solver: Solver = "pgd"
    schedule: Schedule = "constant"
    patience: int = 0
    stop_distance: float | None = None
    precision: Precision = "fp32"
    deterministic: bool = False
