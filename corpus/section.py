"""What every part of the recipe has in common: frozen, and unknown keys are refused."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the recipe that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
