"""Debian's (or any installed) Chromium, driven by playwright; nothing is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a headless browser; skip the test if none is installed."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no {NAMES[0]} on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@dataclass
class Seen:
    """A page, with its messages and requests."""

    page: Page
    messages: list[str] = field(default_factory=list)  # console, errors, dialogs
    requests: list[str] = field(default_factory=list)


@contextmanager
def open_page(browser: Browser, url: str, **context: Any) -> Iterator[Seen]:
    """Load a page and listen from the start."""
    with browser.new_context(**context) as opened:
        seen = Seen(opened.new_page())
        seen.page.on("console", lambda message: seen.messages.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.messages.append(str(error)))
        seen.page.on("dialog", lambda dialog: (seen.messages.append(dialog.message), dialog.dismiss()))
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.goto(url, timeout=120_000)  # ms; a busy machine
        yield seen


def settled(seen: Seen, selector: str, count: int) -> None:
    """Wait until `count` elements match, without a script, which the page's security policy rejects."""
    from playwright.sync_api import expect

    expect(seen.page.locator(selector)).to_have_count(count, timeout=60_000)
