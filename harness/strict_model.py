"""The base of every document that the harness reads or writes as YAML or JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """An immutable record that rejects unknown keys, so that a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
