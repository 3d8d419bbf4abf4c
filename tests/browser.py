"""What must hold for any report in a real browser: Chromium by Playwright."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Request, sync_playwright

from mfal.report.pictures import browser

CHROMIUM = browser()
MISSING = "needs Chromium: `make test` installs it, or apt-get install chromium"

#: Plots without an own drawing: an SVG mark (a path with points or lines), or a canvas of WebGL.
EMPTY_PLOTS = """() => [...document.querySelectorAll(".plot")]
  .filter((plot) => !plot.querySelector(":is(.scatterlayer, .barlayer, .boxlayer, .imagelayer, .heatmaplayer,"
    + " .shapelayer, .violinlayer) :is(path, rect, image)") && !plot.querySelector(".gl-canvas"))
  .map((plot) => plot.id)"""
#: How many shades the picture of a frame has: one where nothing is drawn.
SHADES = """(canvas) => new Set(new Uint32Array(
    canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"""
DRAWN = f"({SHADES})(document.querySelector('#frame canvas')) > 50"
SIDEWAYS = "document.scrollingElement.scrollWidth - innerWidth"


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


class Watched:
    """A page, and all that it should not do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", self._request)
        page.on("dialog", self._dialog)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.wrong.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith(("file://", "data:", "blob:")):
            self.wrong.append(f"asked for {request.url}")

    def _dialog(self, dialog: Dialog) -> None:
        self.wrong.append(f"said {dialog.message}")
        dialog.dismiss()


def until(page: Page, expression: str, seconds: float = 30) -> None:
    """Wait until it is true; Playwright's own way is an `eval`, which the page's content security policy forbids.

    Raises:
        AssertionError: it never was.
    """
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


def opened(browser: Browser, path: Path, *, width: int = 1200, scheme: str = "light") -> Watched:
    """A report with its figures drawn and its table filled."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(page)
    page.goto(path.as_uri())
    page.wait_for_selector(".explorer[data-ready]")
    until(page, "!document.querySelector('.plot:not(.js-plotly-plot)')")
    return watched


def check_page(browser: Browser, path: Path) -> None:
    """Whatever the campaign: all is drawn in light and dark, on a phone and on paper, and nothing goes wrong.

    Raises:
        AssertionError: says what does not hold.
    """
    for scheme, width in (("light", 1200), ("dark", 1200), ("light", 400)):
        watched = opened(browser, path, width=width, scheme=scheme)
        page = watched.page
        assert page.evaluate(EMPTY_PLOTS) == [], f"not drawn ({scheme}, {width} pixels)"
        assert page.evaluate(SIDEWAYS) <= 0, f"scrolls sideways ({scheme}, {width} pixels)"
        check_view(page)
        if width == 1200:
            page.pdf()  # fires beforeprint and afterprint
        page.emulate_media(media="print")
        assert page.evaluate(EMPTY_PLOTS) == []
        assert page.locator(".frames tbody tr:not(.space)").count() > 0
        assert watched.wrong == [], f"{scheme}, {width} pixels"
        page.close()


def check_view(page: Page) -> None:
    """The first frame opens from the table with a picture in it, where there is one, and closes again.

    Raises:
        AssertionError: as above.
    """
    button = page.locator(".frames tbody button").first
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#frame[open] :is([data-part=look], [data-part=absent]):not([hidden])")
    if page.locator("#frame [data-part=look]").is_visible():
        until(page, DRAWN)
    page.keyboard.press("Escape")
    page.wait_for_selector("#frame:not([open])", state="attached")
    assert button.evaluate("(node) => document.activeElement === node"), "the focus did not return"
