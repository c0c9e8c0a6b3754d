"""Options that several calibrate strategies take, and what goes with none of them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

SmallN = Annotated[
    Literal["clip", "inf", "drop"],
    Field(
        description="What a client with fewer than 1/alpha - 1 points sends: its largest score, infinity, or nothing."
    ),
]
Mean = Annotated[
    Literal["mean", "median", "trimmed"], Field(description="the other two tolerate some Byzantine clients")
]
Trim = Annotated[float, Field(ge=0, lt=0.5, description='"trimmed": the share of all weight left out at either end')]
Cap = Annotated[float, Field(gt=0, description="no client weighs more than so many times the median weight")]


def unprotected(calibrator: str) -> str:
    """Why a strategy that hides single points by noise goes with no calibrator."""
    return (
        f"calibrator = {calibrator!r}: the noise hides what one point does to its own score, and a point that a "
        "calibrator is fitted on moves the scores of all others; leave calibrator out"
    )
