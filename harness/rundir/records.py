"""JSON files of the run directory, read and written through typed models."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import UsageError
from harness.files import write_json

_MESSAGES = {
    "missing": "this key is missing",
    "extra_forbidden": "this key is unknown",
    "unexpected_keyword_argument": "this key is unknown",
}


M = TypeVar("M", bound=BaseModel)


def read_record(path: Path, model: type[M]) -> M | None:
    """Return the file's content as a model, or None if the file does not exist.

    Raises:
        UsageError: The file is not JSON or does not match the model. The message names the file and the key.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise UsageError(f"{path}: {first['msg']}; remove the file to have it recreated") from error
        parts = [str(path), ".".join(map(str, first["loc"])), _MESSAGES.get(first["type"], first["msg"])]
        raise UsageError(": ".join(filter(None, parts))) from error


def write_record(path: Path, record: BaseModel) -> None:
    """Replace the file by the record as JSON.

    Optional keys that were never set are omitted.
    """
    write_json(path, record.model_dump(mode="json", exclude_unset=True))
