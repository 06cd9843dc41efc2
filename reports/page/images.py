"""Images embedded in the page, each file only once."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_SUBTYPES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}  # leading bytes → MIME subtype


class Images:
    """Data URIs by content hash, filled while trials are read."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}

    def add(self, folder: Path, name: str) -> str | None:
        """Embed a PNG, JPEG or WebP file below `folder`; return its key, or None if the file is missing.

        The name may come from a record made elsewhere, so it is confined to the folder.
        """
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        content = path.read_bytes()
        subtype = next((subtype for start, subtype in _SUBTYPES.items() if content.startswith(start)), None)
        if subtype is None:
            return None
        key = hashlib.sha256(content).hexdigest()[:16]
        self.uris[key] = f"data:image/{subtype};base64,{base64.b64encode(content).decode()}"
        return key
