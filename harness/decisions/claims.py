"""Claims of a suite: a quantity of one adapter against that of another, or against a number.

claim: attention.bleu > lstm.bleu + 1
claim: faster-rcnn.offline > 2 * fast-rcnn.offline
claim: yolo.ap50 > 0.4
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from pydantic import Field, field_validator

from harness.files import StrictModel

ClaimVerdict: TypeAlias = Literal["supported", "refuted", "inconclusive", "not decided"]

PARTIAL_RUN = "claims are decided by a run without --only"
"""The reason of claims that a run of some trials leaves open."""

_NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
_QUANTITY = r"[A-Za-z0-9][\w.-]*(?:\[[^\]\s]*\])?\.[a-z][\w-]*"
_CLAIM = re.compile(
    rf"(?P<subject>{_QUANTITY})\s*(?P<sign>[<>])\s*(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<object>{_QUANTITY})"
    rf"(?:\s*(?P<margin>[+-]\s*{_NUMBER}))?|(?P<number>-?{_NUMBER}))"
)
_CONDITION = re.compile(rf"(?P<column>[\w ]*\w)\s*(?P<sign>>=|<=|=)\s*(?P<value>{_NUMBER}|[\w-]+)")


class Quantity(NamedTuple):
    """A figure of a metric, a scenario, a cost or a probe of an adapter."""

    adapter: str
    """Name of a variant, or of one without its seed, which then stands for all seeds."""
    name: str


@dataclass(frozen=True)
class Statement:
    """subject > factor · object + margin, or with <; without an object, the margin is the number."""

    subject: Quantity
    sign: Literal[">", "<"]
    factor: float
    object: Quantity | None
    margin: float

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """The quantities that are named."""
        return (self.subject, self.object) if self.object else (self.subject,)


class Condition(NamedTuple):
    """A condition on a property of the samples, such as `source words >= 21`."""

    column: str
    sign: str
    value: str


class ClaimEntry(StrictModel, strict=True):
    """A claim of a suite."""

    claim: str = Field(description="ADAPTER.QUANTITY > [FACTOR *] ADAPTER.QUANTITY [+ MARGIN], or a number.")
    benchmark: str = Field(description="Name of an entry under `benchmarks`.")
    where: str | None = Field(None, description="Only on these samples, such as `source words >= 21`.")
    source: str = Field("", description="Paper or page that states it.")
    refuted_if: str = Field("", description="What the measurement would show if it were false.")
    required: bool = Field(False, description="Exit with code 1 if it is refuted.")

    @field_validator("claim")
    @classmethod
    def _check_claim(cls, text: str) -> str:
        parse_claim(text)
        return text

    @field_validator("where")
    @classmethod
    def _check_condition(cls, text: str | None) -> str | None:
        if text is not None:
            parse_condition(text)
        return text


def parse_claim(text: str) -> Statement:
    """Parse a claim; raise a ValueError if it does not have the form of one."""
    match = _CLAIM.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected ADAPTER.QUANTITY > [FACTOR *] ADAPTER.QUANTITY [+ MARGIN], or > NUMBER")
    subject = Quantity(*match["subject"].rsplit(".", 1))
    other = Quantity(*match["object"].rsplit(".", 1)) if match["object"] else None
    number = (match["margin"] or match["number"] or "0").replace(" ", "")
    sign: Literal[">", "<"] = ">" if match["sign"] == ">" else "<"
    return Statement(subject, sign, float(match["factor"] or 1), other, float(number))


def parse_condition(text: str) -> Condition:
    """Parse a condition on the samples; raise a ValueError if it does not have the form of one."""
    match = _CONDITION.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected COLUMN >= VALUE, COLUMN <= VALUE or COLUMN = VALUE")
    return Condition(*match.groups())
