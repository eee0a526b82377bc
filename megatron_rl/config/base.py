"""Base class and field types of the configuration's sections."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict, StringConstraints

LaxPath = Annotated[Path, Strict(False)]
Lines = Annotated[tuple[str, ...], Strict(False)]
"""A list of strings; TOML and JSON know no tuples."""
Pair = Annotated[tuple[str, ...], Strict(False), Field(min_length=2, max_length=2)]
"""A list of two strings; pydantic would call a missing one of ``tuple[str, str]`` a missing key."""
RowRange = Annotated[str, StringConstraints(pattern=r"^(-?\d+)?:(-?\d+)?$")]
"""Rows START:END, as a slice of Python."""
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen table of the TOML file; unknown and ill-typed keys are refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
