"""Pictures of the page for the README: Chromium opens it and generates a video with the embedded default.

python -m scripts.draw_page .github/pictures    writes page.png and page-phone.png (needs [demo] and playwright)
"""

import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from followyourpose.config import REPOSITORY, GenerateConfig, load_config
from followyourpose.web.app import running_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

DESKTOP, PHONE = (1280, 900), (390, 844)  # width and height in pixels
NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (  # no sandbox: Chromium has none as root; the rest turns off the browser's own traffic
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def main(folder: Path) -> None:
    config = load_config(GenerateConfig, REPOSITORY / "configs" / "puppet" / "demo.yaml")
    with running_page(config) as url, tempfile.TemporaryDirectory() as profile, opened(Path(profile), *DESKTOP) as page:
        page.goto(url)
        page.get_by_text("16 frames of the driving video").wait_for()
        for prompt in ("an astronaut on the moon", "a panda in the forest"):
            page.get_by_role("button", name=prompt, exact=True).click()
            page.get_by_role("button", name="Generate", exact=True).click()
            page.get_by_text(f"{prompt}, seed 0, in").wait_for(timeout=300_000)
        page.get_by_role("radio", name="beside", exact=True).check()
        page.wait_for_timeout(2000)  # for the video to play
        page.evaluate("document.querySelectorAll('video').forEach(video => video.pause())")
        _save(page, folder / "page.png")
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        page.evaluate("scrollTo(0, 0)")
        _save(page, folder / "page-phone.png")


def _save(page: "Page", path: Path) -> None:
    """Write the page as a picture of 256 colours, a third of its size."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize().save(path, optimize=True)


def executable() -> str | None:
    """Return the path of a Chromium; None: none is installed."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        with sync_playwright() as playwright:
            path = playwright.chromium.executable_path
        found = path if Path(path).exists() else None
    return found


@contextmanager
def opened(profile: Path, width: int, height: int) -> Iterator["Page"]:
    """Yield an empty page of this size in pixels, in a browser whose profile is kept in a folder."""
    from playwright.sync_api import sync_playwright

    path, size = executable(), {"width": width, "height": height}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, headless=True, args=QUIET, viewport=size
        )
        try:
            yield browser.pages[0] if browser.pages else browser.new_page()
        finally:
            browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
