"""Pictures inside the page: each file stands in it once, however many trials show it."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}  # leading bytes → MIME subtype


class Pictures:
    """Content hash → data URI, filled while trials are read."""

    def __init__(self) -> None:
        self.uris: dict[str, str] = {}

    def add(self, folder: Path, name: str) -> str | None:
        """The key of a PNG, JPEG or WebP file below `folder`; None if there is no such file.

        A name may come from a record made elsewhere, so it never leads out of the folder.
        """
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            return None
        content = path.read_bytes()
        kind = next((kind for start, kind in _KINDS.items() if content.startswith(start)), None)
        if kind is None:
            return None
        key = hashlib.sha256(content).hexdigest()[:16]
        self.uris[key] = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        return key
