"""The page of a run with its packed sections put in, as a browser shows it once all are opened."""

from __future__ import annotations

import base64
import gzip
import json
import re


def whole(page: str) -> str:
    """Replace the packed content by the sections that it holds; each has exactly one place."""
    (packed,) = re.findall(r'<script type="application/octet-stream" id="packed">.*?</script>\n', page)
    text = packed[packed.index(">") + 1 : packed.rindex("<")]
    sections = json.loads(gzip.decompress(base64.b64decode(text)))["sections"]
    page = page.replace(packed, "")
    for index, section in enumerate(sections):
        place = f'<div data-section="{index}"></div>'
        assert page.count(place) == 1
        page = page.replace(place, f"<div>{section}</div>")
    return page
