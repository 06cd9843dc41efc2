"""Names and lengths that MLflow accepts (limits of mlflow.utils.validation, version 3.17)."""

import json
import re
import zlib
from collections.abc import Iterator, Mapping

KEY, TAG, PARAM, EXPERIMENT = 250, 8000, 6000, 500  # characters
RUN_NAME, RANK = "mlflow.runName", "trade-off"  # tags
VIEW = "harness"  # key of the stored view


def key(name: str, limit: int = KEY - 50) -> str:
    """Return a name that MLflow accepts as a key. An altered name ends in a checksum to avoid collisions."""
    plain = re.sub(r"[^A-Za-z0-9_\-. ]", "_", name).strip(". ")[:limit]
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def readable(variant: str, separator: str = " · ") -> str:
    """Return a variant as words: `yolo[batch_size=16,beam=5]` is `yolo · batch 16 · beam 5`."""
    name, bracket, axes = variant.removesuffix("]").partition("[")
    settings = axes.replace("batch_size=", "batch=").replace("=", " ").split(",") if bracket else []
    return separator.join([name, *settings])


def cut(value: object, limit: int) -> str:
    """Return at most `limit` characters of a text, or of the JSON of any other value."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def flat(nested: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the leaves of nested mappings under dotted keys."""
    for name, value in nested.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
