"""The page in a real browser: Playwright drives Chromium. Skipped where Gradio, Playwright or Chromium is missing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

from followyourpose.config import GenerateConfig, PoseConfig
from followyourpose.data.video_io import probe, write_video
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.web.app import running_page
from followyourpose.web.requests import Limits
from tests.tiny import write_image_model

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")
pytest.importorskip("playwright", reason="the browser is driven by Playwright: pip install playwright")

from playwright.sync_api import Locator, expect  # noqa: E402

from scripts.draw_page import DESKTOP, PHONE, executable, opened  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is here: apt-get install chromium")
FRAMES, STEPS = 4, 25


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """A config of the page, of a model of random weights with videos of 32 x 32 pixels."""
    model = write_image_model(tmp_path_factory.mktemp("browser") / "model")
    return GenerateConfig(
        model=str(model), prompt=["a cat", "a dog"], num_frames=FRAMES, num_inference_steps=STEPS, enlarge=2,
        device="cpu", pose=PoseConfig(backend="puppet"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def url(config: GenerateConfig) -> Iterator[str]:
    """Address of the page."""
    with running_page(config, Limits(num_frames=16)) as url:
        yield url


@pytest.fixture(scope="module")
def browser_page(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    with opened(tmp_path_factory.mktemp("profile"), *DESKTOP) as page:
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.set_default_timeout(60_000)
        yield page


@pytest.fixture
def page(browser_page: "Page", url: str) -> "Page":
    """The page loaded anew, driving frames shown; `requested` has the addresses of all its requests."""
    browser_page.goto(url)
    expect(browser_page.get_by_text(f"{FRAMES} frames of the driving video: 0, 1, 2, 3")).to_be_visible(timeout=60_000)
    for accordion in ("Crop", "Settings"):
        browser_page.get_by_role("button", name=accordion).click()
    return browser_page


def preview(page: "Page") -> str:
    """Address of the picture of the driving frames; it changes with the picture."""
    return page.locator("img").first.get_attribute("src")


def slide(page: "Page", label: str, value: float) -> Locator:
    slider = page.get_by_label(f"range slider for {label}")
    slider.fill(str(value))
    slider.dispatch_event("pointerup")
    return slider


def start(page: "Page") -> None:
    page.get_by_role("button", name="Generate", exact=True).click()


def status(page: "Page") -> Locator:
    return page.locator(".prose.status")


def command(page: "Page") -> Locator:
    return page.locator(".command textarea")


def test_each_slider_changes_the_preview(page: "Page") -> None:
    for label, value, numbers in (
        ("Temporal offset, frames", 3, "3, 4, 5, 6"),
        ("Stride, frames", 2, "3, 5, 7, 9"),
        ("Number of frames", 5, "3, 5, 7, 9, 11"),
        *((f"Crop {edge}, pixels", 60, "3, 5, 7, 9, 11") for edge in ("left", "right", "top", "bottom")),
    ):
        before = preview(page)
        slide(page, label, value)
        page.wait_for_function("before => document.querySelector('img').getAttribute('src') != before", arg=before)
        expect(page.get_by_text(f"frames of the driving video: {numbers}", exact=False)).to_be_visible()


def test_sliders_reach_as_far_as_the_driving_video(page: "Page") -> None:
    info = probe(SAMPLE)
    for label, end in (("Temporal offset, frames", info.num_frames), ("Crop left, pixels", info.width)):
        expect(page.get_by_label(f"range slider for {label}")).to_have_attribute("max", str(end - 1))


def test_another_driving_video_draws_the_sliders_back_within_it(page: "Page", tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", np.zeros((9, 48, 64, 3), np.uint8), 8)
    slide(page, "Temporal offset, frames", 20)
    slide(page, "Crop bottom, pixels", 100)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "short.mp4")
    for label, end in (("Temporal offset, frames", 8), ("Crop bottom, pixels", 47)):
        slider = page.get_by_label(f"range slider for {label}")
        expect(slider).to_have_attribute("max", str(end))
        expect(slider).to_have_value(str(end))


def test_a_reason_stands_in_place_of_a_preview(page: "Page") -> None:
    slide(page, "Temporal offset, frames", 30)
    expect(page.get_by_text("dance.mp4: the clip has 32 frames, too short for temporal_offset 30")).to_be_visible()


def test_the_sample_generates_with_progress_and_its_result_plays(page: "Page") -> None:
    page.get_by_label("left", exact=True).check()
    page.get_by_label("dance", exact=True).check()
    start(page)
    expect(page.locator(".status progress")).to_be_visible(timeout=60_000)
    expect(status(page)).to_contain_text(re.compile(rf"Step \d+ of {STEPS}, about \d+ s left"), timeout=60_000)
    page.wait_for_selector(".live img")
    expect(status(page)).to_contain_text("Done.", timeout=120_000)
    playing = "[...document.querySelectorAll('video')].filter(video => video.currentTime > 0).length == 2"
    page.wait_for_function(playing)
    durations = page.evaluate("[...document.querySelectorAll('video')].map(video => video.duration)")
    assert durations == pytest.approx([FRAMES / 8] * 2)
    expect(command(page)).to_have_value("followyourpose generate a-cat-0.yaml")
    expect(page.get_by_text("a-cat-0", exact=True).first).to_be_visible()  # in the gallery


def test_a_random_seed_can_be_used_again(page: "Page") -> None:
    slide(page, "Denoising steps", 1)
    page.get_by_label("Another seed each time").check()
    start(page)
    expect(status(page)).to_contain_text("Done.", timeout=120_000)
    made = command(page).input_value()
    page.get_by_role("button", name="Use this seed again").click()
    expect(page.get_by_label("Another seed each time")).not_to_be_checked()
    assert made == f"followyourpose generate a-cat-{page.get_by_label('Seed', exact=True).input_value()}.yaml"


def test_a_run_is_cancelled_and_the_next_one_is_not(page: "Page") -> None:
    slide(page, "Denoising steps", 100)
    start(page)
    expect(status(page)).to_contain_text("Step ", timeout=60_000)
    page.get_by_role("button", name="Cancel").click()
    expect(status(page)).to_contain_text("Cancelled.")
    page.wait_for_timeout(600)  # for a late report
    expect(status(page)).to_contain_text("Cancelled.")
    slide(page, "Denoising steps", 1)
    start(page)
    expect(status(page)).to_contain_text("Done.", timeout=120_000)


def test_a_corrupt_upload_gets_a_clear_message(page: "Page", tmp_path: Path) -> None:
    content = SAMPLE.read_bytes()
    (tmp_path / "holiday.mp4").write_bytes(content[: len(content) // 2])
    page.locator("input[type=file]").first.set_input_files(tmp_path / "holiday.mp4")
    expect(page.get_by_text("holiday.mp4: cannot be read as frames").first).to_be_visible()
    start(page)
    expect(page.get_by_test_id("toast-body").get_by_text("holiday.mp4: cannot be read")).to_be_visible()


def test_a_video_of_no_frames_gets_a_clear_message(page: "Page", tmp_path: Path) -> None:
    (tmp_path / "nothing.mp4").write_bytes(b"")
    header = SAMPLE.read_bytes()
    (tmp_path / "header.mp4").write_bytes(header[: int.from_bytes(header[:4], "big")])  # a video without a frame
    for name, reason in (("nothing", "is empty, damaged"), ("header", "cannot be read as frames")):
        page.locator("input[type=file]").first.set_input_files(tmp_path / f"{name}.mp4")
        expect(page.get_by_text(f"{name}.mp4: {reason}").first).to_be_visible()
        page.get_by_role("button", name="Clear").click()


def test_a_prompt_that_is_too_long_gets_a_clear_message(page: "Page") -> None:
    page.get_by_label("Prompt", exact=True).fill("x" * 10_000)
    start(page)
    expect(page.get_by_text("prompt: got 10000 characters, expected at most 1000").first).to_be_visible()


def test_the_second_tab_extracts_a_skeleton(page: "Page", tmp_path: Path) -> None:
    write_video(tmp_path / "black.mp4", np.zeros((4, 64, 64, 3), np.uint8), 8)
    page.get_by_role("tab", name="Extract a skeleton").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "black.mp4")
    page.get_by_role("button", name="Extract", exact=True).click()
    expect(page.get_by_role("cell", name="keypoints.json")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("puppet found nobody, so the skeleton is black.")).to_be_visible()


def test_it_fits_a_phone(page: "Page") -> None:
    page.set_viewport_size(dict(zip(("width", "height"), PHONE, strict=True)))
    try:
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        for name in ("Generate", "Cancel"):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert 0 <= box["x"] and box["x"] + box["width"] <= PHONE[0]
    finally:
        page.set_viewport_size(dict(zip(("width", "height"), DESKTOP, strict=True)))


def test_the_page_comes_after_its_login(browser_page: "Page", config: GenerateConfig) -> None:
    before = len(browser_page.requested)
    with running_page(config, password="let me in") as url:
        browser_page.goto(url)
        browser_page.get_by_label("Password").fill("guessed")
        browser_page.get_by_role("button", name="Log in").click()
        expect(browser_page.get_by_role("alert")).to_have_text("login: got a wrong password")
        browser_page.get_by_label("Password").fill("let me in")
        browser_page.get_by_role("button", name="Log in").click()
        expect(browser_page.get_by_text(f"{FRAMES} frames of the driving video")).to_be_visible(timeout=60_000)
        browser_page.goto("about:blank")
    del browser_page.requested[before:]  # of another server


def test_it_reaches_no_other_server(page: "Page", url: str) -> None:
    """The last of these tests: of the requests of all others."""
    hosts = {urlsplit(address).netloc for address in page.requested if not address.startswith(("blob:", "data:"))}
    assert hosts == {urlsplit(url).netloc} and len(page.requested) > 50
