"""A headless browser for tests of pages; they skip where playwright or a browser is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from page_pixels import OpenPage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL = ("file://", "data:")
"""Starts of addresses that stay on the machine."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a browser of the machine without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip(f"no browser of the names {', '.join(BROWSERS)} is installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> OpenPage:
    """Open a page from its file, and refuse console messages, errors and any request."""

    @contextmanager
    def opened(path: Path, **options: Any) -> Iterator[Any]:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
        page.on("request", lambda r: said.append(r.url) if not r.url.startswith(LOCAL) else None)
        page.goto(path.as_uri())
        yield page
        context.close()
        assert said == []

    return opened
