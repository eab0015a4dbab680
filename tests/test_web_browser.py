"""The page in a real browser: Playwright drives Chromium. Skipped where Gradio, Playwright or Chromium is missing."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest

from followyourpose.config import GenerateConfig, PoseConfig
from followyourpose.data.video_io import probe, write_gif, write_video
from followyourpose.generation import extract_pose
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.pose.skeleton import NUM_JOINTS
from followyourpose.puppets.world import render_scene, sample_scene
from followyourpose.web.app import running_page
from followyourpose.web.page import DOWNLOADS
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
SHOWN = "[...document.querySelectorAll('.stage video')].filter(video => video.offsetParent)"


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
    """The page loaded anew, driving frames shown, options unfolded; `requested` has the addresses of all requests."""
    browser_page.goto(url)
    expect(browser_page.get_by_text(f"{FRAMES} frames of the driving video: 0, 1, 2, 3")).to_be_visible(timeout=60_000)
    for fold in ("Frames:", "Look:"):
        browser_page.get_by_role("button", name=fold).click()
    return browser_page


def slide(page: "Page", label: str, value: float) -> Locator:
    slider = page.get_by_label(f"range slider for {label}")
    slider.fill(str(value))
    slider.dispatch_event("pointerup")
    return slider


def button(page: "Page", name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def generate(page: "Page", made: str) -> None:
    """Press Generate, and wait for the result of this name."""
    button(page, "Generate").click()
    expect(status(page)).to_contain_text(f"{made}, in ", timeout=120_000)


def status(page: "Page") -> Locator:
    return page.locator(".prose.status:visible")


def upload(page: "Page", file: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(file)


def violations(page: "Page") -> list[str]:
    """Rules of accessibility (axe-core, WCAG AA among them) that the page breaks, and where."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    found = axe.Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


# ---- layout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible_and_the_first_controls_are_above_the_fold(browser_page: "Page", url: str, theme: str) -> None:
    """On both tabs, on a desktop and on a phone."""
    page = browser_page
    page.emulate_media(color_scheme=theme)
    page.goto(url)
    expect(page.locator(".frames img")).to_be_visible(timeout=60_000)
    try:
        for width, height in (DESKTOP, PHONE):
            page.set_viewport_size({"width": width, "height": height})
            page.get_by_role("tab", name="Generate").click()
            parts = [
                page.get_by_label("Prompt", exact=True),
                page.get_by_label("dance"),
                button(page, "Upload your own"),
            ]
            for part in (*parts, button(page, "Generate")):
                box = part.bounding_box()
                assert 0 <= box["x"] and box["x"] + box["width"] <= width, part
                assert 0 <= box["y"] and box["y"] + box["height"] <= height, part
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert not violations(page)
            page.get_by_role("tab", name="Extract a skeleton").click()
            expect(button(page, "Extract")).to_be_in_viewport()
            assert not violations(page)
    finally:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size(dict(zip(("width", "height"), DESKTOP, strict=True)))


def test_the_folds_have_their_values_in_their_titles_and_presets_set_them(page: "Page") -> None:
    titles = page.locator(".label-wrap > span:first-child")
    slide(page, "First frame", 3)
    slide(page, "Take every n-th frame", 2)
    expect(titles.first).to_have_text(f"Frames: {FRAMES} from 3, every 2.")
    page.get_by_label("fast", exact=True).check()
    expect(titles.nth(1)).to_have_text("Look: seed 0, 8 steps of dpm++, guidance 12.5")
    expect(page.locator(".cost")).to_have_text(re.compile(rf"{FRAMES} frames, 8 steps: about \d+ s"))
    slide(page, "Guidance scale", 3)
    expect(titles.nth(1)).to_have_text("Look: seed 0, 8 steps of dpm++, guidance 3")
    expect(page.get_by_label("fast", exact=True)).not_to_be_checked()
    page.get_by_label("standard", exact=True).check()
    expect(titles.nth(1)).to_have_text(f"Look: seed 0, {STEPS} steps of ddim, guidance 12.5")


# ---- before a job ----------------------------------------------------------------------------------------------------


def test_each_slider_changes_the_preview(page: "Page") -> None:
    picture = page.locator(".frames img")
    for label, value, numbers in (
        ("First frame", 3, "3, 4, 5, 6"),
        ("Take every n-th frame", 2, "3, 5, 7, 9"),
        ("Number of frames", 5, "3, 5, 7, 9, 11"),
        *((f"Crop {edge}, pixels", 60, "3, 5, 7, 9, 11") for edge in ("left", "right", "top", "bottom")),
    ):
        before = picture.get_attribute("src")
        slide(page, label, value)
        expect(picture).not_to_have_attribute("src", before)
        expect(page.get_by_text(f"frames of the driving video: {numbers}", exact=False)).to_be_visible()


def test_sliders_reach_as_far_as_the_driving_video_and_stay_within_the_next(page: "Page", tmp_path: Path) -> None:
    info = probe(SAMPLE)
    write_gif(tmp_path / "still.gif", np.zeros((1, 48, 64, 3), np.uint8), 8)
    for name, number, height in (("dance", info.num_frames, info.height), ("still.gif", 1, 48)):
        if name != "dance":
            upload(page, tmp_path / name)
        for label, end in (("First frame", number - 1), ("Crop bottom, pixels", height - 1)):
            slider = page.get_by_label(f"range slider for {label}")
            expect(slider).to_have_attribute("max", str(max(end, 1)), timeout=30_000)
            slide(page, label, end) if end else expect(slider).to_be_disabled()
            expect(slider).to_have_value(str(end))
    reason = "still.gif: the clip has 1 frame, too short for “First frame” 0 + “Number of frames” 4"
    expect(page.locator(".problem")).to_contain_text(reason)
    expect(button(page, "still.gif")).to_be_visible()
    page.get_by_label("hold", exact=True).check()
    expect(page.get_by_text("4 frames of the driving video: 0, 0, 0, 0")).to_be_visible()
    page.get_by_label("left", exact=True).check()  # a sample in place of the upload
    expect(page.get_by_label("range slider for First frame")).to_be_enabled()
    expect(button(page, "Upload your own")).to_be_visible()


def test_the_prompt_is_counted_in_tokens_and_its_problems_stand_beside_it(page: "Page") -> None:
    prompt, note = page.get_by_label("Prompt", exact=True), page.locator(".read")
    prompt.fill("a cat")
    expect(note).to_contain_text(re.compile(r"\d+ of \d+ tokens"))
    prompt.fill("a <b>unicorn</b> " * 20)
    expect(note).to_contain_text("Too long; not read")
    expect(note.locator("u").first).to_have_css("text-decoration-style", "wavy")
    prompt.fill("x" * 10_000)
    reason = page.get_by_role("alert").get_by_text("Prompt: got 10000 characters, expected at most 1000")
    expect(reason).to_be_visible()
    button(page, "Generate").click()
    expect(status(page)).to_contain_text("Prompt: got 10000 characters, expected at most 1000")
    expect(button(page, "Generate")).to_be_visible()


def test_an_upload_that_is_no_video_gets_a_clear_message(page: "Page", tmp_path: Path) -> None:
    content = SAMPLE.read_bytes()
    header = content[: int.from_bytes(content[:4], "big")]  # a video without a frame
    for name, part, reason in (
        ("nothing", b"", "is empty, damaged"),
        ("header", header, "cannot be read as frames"),
        ("holiday", content[: len(content) // 2], "cannot be read as frames"),
    ):
        (tmp_path / f"{name}.mp4").write_bytes(part)
        upload(page, tmp_path / f"{name}.mp4")
        expect(page.locator(".problem")).to_contain_text(f"{name}.mp4: {reason}", timeout=30_000)
    button(page, "Generate").click()
    expect(status(page)).to_contain_text("holiday.mp4: cannot be read")


def test_a_click_on_one_of_several_people_begins_the_line_of_that_person(page: "Page") -> None:
    sentences = page.get_by_label("Sentence of each person")
    expect(sentences).to_be_hidden()
    page.get_by_label("two", exact=True).check()
    first, second = (page.get_by_role("button", name=f"Write the sentence of person {track}") for track in (0, 1))
    expect(page.get_by_role("img", name="Frame 0, with the numbers of its people")).to_be_visible(timeout=60_000)
    second.click()
    page.keyboard.type("a dog")
    first.focus()
    page.keyboard.press("Enter")
    page.keyboard.type("a fox")
    second.click()
    page.keyboard.type(" in <b>")
    expect(sentences).to_have_value("1: a dog in <b>\n0: a fox")
    assert not violations(page)
    sentences.fill("5: a dog")
    page.get_by_label("Prompt", exact=True).fill("0: a cat\n2: a fox")
    slide(page, "Denoising steps", 1)
    button(page, "Generate").click()
    reason = "Sentence of each person: two.json: got track 5, expected one of 0, 1 in the frames used"
    expect(status(page)).to_contain_text(reason, timeout=60_000)
    sentences.fill("1: a dog")
    generate(page, "a cat then a fox, seed 0")
    page.get_by_label("dance", exact=True).check()
    expect(sentences).to_be_hidden()
    button(page, "Use a cat then a fox, seed 0 again").click()
    expect(sentences).to_have_value("1: a dog")
    expect(first).to_be_visible()


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_a_result_appears_plays_and_is_kept_compared_and_used_again(page: "Page", tmp_path: Path) -> None:
    expect(page.get_by_text("Your video will appear here")).to_be_visible()
    expect(page.get_by_text("Your videos are kept here")).to_be_visible()
    button(page, "Generate").click()
    expect(status(page)).to_contain_text(re.compile(rf"Step \d+ of {STEPS}, about \d+ s left"), timeout=60_000)
    expect(status(page).locator("progress")).to_be_visible()
    expect(status(page).locator("img")).to_be_visible()
    expect(status(page)).to_contain_text("a cat, seed 0, in ", timeout=120_000)
    videos = page.locator(".stage video:visible")
    for form, width in (("off", 64), ("over", 64), ("beside", 128), ("off", 64)):
        page.get_by_role("radio", name=form, exact=True).check()
        page.wait_for_function(f"{SHOWN}.some(video => video.videoWidth == {width} && video.currentTime > 0)")
    assert videos.evaluate("video => video.duration") == pytest.approx(FRAMES / 8)
    assert not violations(page)

    page.get_by_role("button", name="The same video by the command line").click()
    page.get_by_label("Another seed each time").check()
    slide(page, "Denoising steps", 1)
    button(page, "Generate").click()
    expect(page.get_by_role("button", name=re.compile("Show a cat, seed"))).to_have_count(2, timeout=120_000)
    seed = re.search(r"seed (\d+), in", status(page).inner_text())[1]
    expect(page.locator(".command textarea")).to_have_value(f"followyourpose generate a-cat-{seed}.yaml")
    page.get_by_role("combobox", name="Compare with").click()
    page.get_by_role("option", name="1: a cat, seed 0").click()
    expect(videos).to_have_count(2)
    page.wait_for_function(f"{SHOWN}.length == 2 && {SHOWN}.every(video => video.currentTime > 0)")
    button(page, f"Use a cat, seed {seed} again").click()
    expect(page.get_by_label("Seed", exact=True)).to_have_value(seed)
    expect(page.get_by_label("Another seed each time")).not_to_be_checked()
    button(page, "Show a cat, seed 0").click()
    expect(page.locator(".command textarea")).to_have_value("followyourpose generate a-cat-0.yaml")
    names = []
    for label in DOWNLOADS:
        with page.expect_download() as file:
            button(page, label).click()
        names.append(file.value.suggested_filename)
    forms = (".mp4", ".gif", "-sheet.png", "-with-skeleton.mp4", "-skeleton-over.mp4", ".yaml")
    assert names == [f"a-cat-0{form}" for form in forms]


def test_a_run_is_cancelled_which_is_no_error_and_the_next_one_is_not(page: "Page") -> None:
    expect(button(page, "Cancel")).to_be_hidden()
    slide(page, "Denoising steps", 100)
    button(page, "Generate").click()
    expect(status(page)).to_contain_text("Step ", timeout=60_000)
    expect(button(page, "Generate")).to_be_hidden()
    button(page, "Cancel").click()
    expect(status(page)).to_contain_text("Cancelled.")
    page.wait_for_timeout(600)  # for a late report
    expect(status(page)).to_contain_text("Cancelled.")
    expect(button(page, "Cancel")).to_be_hidden()
    expect(page.locator(".problem, .toast-body")).to_have_count(0)
    slide(page, "Denoising steps", 1)
    generate(page, "a cat, seed 0")


def test_a_video_of_people_is_recognised_and_its_people_are_found(page: "Page", tmp_path: Path) -> None:
    frames, _ = render_scene(sample_scene(np.random.default_rng(0)), FRAMES, 64, 64)
    write_video(tmp_path / "raw.mp4", frames, 8)
    upload(page, tmp_path / "raw.mp4")
    expect(page.get_by_text("This is a video of people")).to_be_visible(timeout=30_000)
    button(page, "Find its people").click()
    expect(page.get_by_text(f"{FRAMES} frames of the driving video: 0, 1, 2, 3")).to_be_visible(timeout=60_000)
    expect(button(page, "Find its people")).to_be_hidden()


def test_the_second_tab_extracts_a_skeleton_that_drives_the_first(page: "Page", tmp_path: Path) -> None:
    frames, _ = render_scene(sample_scene(np.random.default_rng(0)), FRAMES, 64, 64)
    write_video(tmp_path / "raw.mp4", frames, 8)
    write_video(tmp_path / "black.mp4", np.zeros((4, 64, 64, 3), np.uint8), 8)
    page.get_by_role("tab", name="Extract a skeleton").click()
    button(page, "Extract").click()
    expect(status(page)).to_contain_text("got no file, expected a video of people")
    for name, text in (("black.mp4", "puppet found nobody, so the skeleton is black."), ("raw.mp4", "1 person found")):
        page.locator("input[type=file]").last.set_input_files(tmp_path / name)
        expect(page.get_by_text(name)).to_be_visible(timeout=30_000)
        button(page, "Extract").click()
        expect(status(page)).to_contain_text(text, timeout=60_000)
        page.get_by_label("Remove this file").or_(page.get_by_label("Clear")).first.click()
    expect(
        page.get_by_role("img", name=re.compile(rf"Confidence of {FRAMES} frames: 0\.\d\d on average"))
    ).to_be_visible()
    assert not violations(page)
    button(page, "Drive a video with it").click()
    expect(button(page, "keypoints.json")).to_be_visible()
    expect(page.get_by_text(f"{FRAMES} frames of the driving video: 0, 1, 2, 3")).to_be_visible(timeout=60_000)


def test_some_of_several_people_are_kept(page: "Page", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def people(frames: np.ndarray) -> list[list[np.ndarray]]:
        body = np.c_[np.linspace(0, 16, NUM_JOINTS), np.linspace(8, 56, NUM_JOINTS), np.ones(NUM_JOINTS)]
        return [[body + (8, 0, 0), body + (40, 0, 0)] for _ in frames]

    monkeypatch.setattr(extract_pose, "open_estimator", lambda *_, **__: people)
    write_video(tmp_path / "pair.mp4", np.full((FRAMES, 64, 64, 3), 90, np.uint8), 8)
    page.get_by_role("tab", name="Extract a skeleton").click()
    page.locator("input[type=file]").last.set_input_files(tmp_path / "pair.mp4")
    expect(page.get_by_text("pair.mp4")).to_be_visible()
    button(page, "Extract").click()
    expect(status(page)).to_contain_text("2 people found in 4 frames.", timeout=60_000)
    expect(page.get_by_role("img", name="The people, with their numbers")).to_be_visible()
    assert not violations(page)
    video = page.locator(".stage video:visible")
    before = video.get_attribute("src")
    page.get_by_label("1: in 4 frames").uncheck()
    expect(video).not_to_have_attribute("src", before, timeout=30_000)
    with page.expect_download() as file:
        button(page, "Keypoints").click()
    assert [len(frame) for frame in read_keypoints(file.value.path()).frames] == [1] * FRAMES


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
