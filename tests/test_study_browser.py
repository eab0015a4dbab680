"""The page of a user study in a real browser, from its folder. Skipped where Playwright or Chromium is missing."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from followyourpose.config import StudyConfig
from followyourpose.data.video_io import write_video
from followyourpose.study.make import make_study
from followyourpose.study.score import read_answers, read_key, score

pytest.importorskip("playwright", reason="the browser is driven by Playwright: pip install playwright")

from playwright.sync_api import expect  # noqa: E402

from scripts.draw_page import DESKTOP, PHONE, executable, opened  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium is here: apt-get install chromium")
SECONDS, TOO_SOON = 0.5, 350  # of a video; milliseconds until a key counts


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two systems, two prompts with skeletons and two questions."""
    folder = tmp_path_factory.mktemp("study")
    for system in ("ours", "theirs"):
        (folder / system).mkdir()
        for name in ("a", "b"):
            write_video(folder / system / f"{name}.mp4", np.full((4, 32, 32, 3), 90, np.uint8), 4 / SECONDS)
    rows = [{"video": name, "prompt": f"a <b>{name}</b>", "skeleton": f"ours/{name}.mp4"} for name in ("a", "b")]
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    systems = {system: str(folder / system) for system in ("ours", "theirs")}
    return make_study(StudyConfig(systems, str(folder / "m.jsonl"), ["quality", "text"], output=str(folder / "study")))


@pytest.fixture(scope="module")
def browser_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    with opened(tmp_path_factory.mktemp("profile"), *DESKTOP) as page:
        page.requested = []
        page.on("request", lambda request: page.requested.append(request.url))
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        yield page
        expect.set_options(timeout=5_000)


@pytest.fixture
def page(browser_page: "Page", study: Path) -> "Page":
    begin(browser_page, study)
    return browser_page


def begin(page: "Page", study: Path) -> None:
    """Open the study's page as a new rater, whatever the browser kept, and start by a key."""
    page.goto((study / "index.html").as_uri())
    page.evaluate("rater = newRater(); steps = planned(rater.seed); show(); $('begin').focus()")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Question 1 of 4")).to_be_visible()


def shown(page: "Page") -> list[str]:
    """The names of the videos to choose from, from the left."""
    return page.evaluate("[...document.querySelectorAll('.choice video')].map(v => v.src.match(/(\\w+).mp4/)[1])")


def press(page: "Page", key: str) -> None:
    page.wait_for_timeout(TOO_SOON)
    page.keyboard.press(key)


def test_answers_by_keys_survive_a_reload_and_are_scored(page: "Page", study: Path, tmp_path: Path) -> None:
    key, wanted = read_key(study / "key.json"), Counter()
    whose = {name: system for item in key["items"].values() for name, system in item["videos"].items()}
    for step, choice in enumerate((1, 2, 2, 1), 1):
        expect(page.get_by_text(f"Question {step} of 4")).to_be_visible()
        if step == 3:
            before = shown(page)
            page.reload()
            expect(page.get_by_text("Question 3 of 4")).to_be_visible()
            assert shown(page) == before and page.locator("progress").evaluate("bar => bar.value") == 2
            press(page, "ArrowLeft")
            expect(page.get_by_role("button", name="Video 2")).to_have_attribute("aria-pressed", "true")
            press(page, "ArrowRight")
            expect(page.get_by_text("Question 3 of 4")).to_be_visible()
        wanted[whose[shown(page)[choice - 1]]] += 1
        press(page, str(choice))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the answers").click()
    assert re.fullmatch(rf"answers-{key['study']}-\d+\.csv", download.value.suggested_filename)
    download.value.save_as(tmp_path / "answers.csv")
    answers = read_answers(key, [tmp_path / "answers.csv"])
    assert Counter(answer.system for answer in answers) == wanted
    assert [answer.position for answer in answers] == [1, 2, 2, 1]
    assert score(key, answers)["answers"] == 4 and all(answer.seconds > 0.3 for answer in answers)


def test_a_changed_answer_replaces_the_first(page: "Page") -> None:
    press(page, "1")
    press(page, "Backspace")
    expect(page.get_by_role("button", name="Video 1")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(TOO_SOON)
    page.get_by_role("button", name="Video 2").click()
    expect(page.get_by_text("Question 2 of 4")).to_be_visible()
    answers = page.evaluate("Object.values(rater.answers)")
    assert [answer["position"] for answer in answers] == [2]


def test_a_key_that_is_held_or_comes_twice_answers_one_question(page: "Page") -> None:
    page.wait_for_timeout(TOO_SOON)
    page.evaluate("for (const key of '12') dispatchEvent(new KeyboardEvent('keydown', { key }))")
    page.wait_for_timeout(TOO_SOON)
    page.evaluate("dispatchEvent(new KeyboardEvent('keydown', { key: '1', repeat: true }))")
    expect(page.get_by_text("Question 2 of 4")).to_be_visible()
    for key in ("3", "x", "ArrowRight"):  # no such video, no key, nothing answered yet
        press(page, key)
    expect(page.get_by_text("Question 2 of 4")).to_be_visible()


def test_videos_and_skeleton_loop_in_step(page: "Page") -> None:
    expect(page.locator(".skeleton video")).to_be_visible()
    times = "[...document.querySelectorAll('video')].map(video => video.currentTime)"
    assert len(page.evaluate(times)) == 3
    for half in (">", "<", ">", "<"):
        page.wait_for_function(f"{times}.every(time => time {half} {SECONDS / 2})")


def test_prompts_are_shown_as_text(page: "Page") -> None:
    expect(page.get_by_text(re.compile("“a <b>[ab]</b>”"))).to_be_visible()


def test_the_order_is_the_seeds_and_even(page: "Page") -> None:
    orders = page.evaluate("[...Array(400).keys()].map(i => planned(i * 7919 + 1).map(step => step.videos[0]))")
    assert page.evaluate("planned(7920).map(step => step.videos[0])") == orders[1]
    assert all(order[0] == order[1] and order[2] == order[3] for order in orders)  # videos stay where they are
    first = Counter(order[0] for order in orders)
    assert len(first) == 4 and all(60 <= count <= 140 for count in first.values())


def test_a_missing_video_is_reported_and_cannot_be_chosen(page: "Page", study: Path, tmp_path: Path) -> None:
    shutil.copytree(study, tmp_path / "copy")
    for video in (tmp_path / "copy" / "videos").iterdir():
        video.unlink()
    begin(page, tmp_path / "copy")
    expect(page.get_by_role("alert")).to_contain_text("cannot be played. Is the folder videos beside this page?")
    press(page, "1")
    expect(page.get_by_text("Question 1 of 4")).to_be_visible()


def test_it_fits_a_phone(page: "Page") -> None:
    page.set_viewport_size(dict(zip(("width", "height"), PHONE, strict=True)))
    try:
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
        boxes = [page.get_by_role("button", name=f"Video {n}").bounding_box() for n in (1, 2)]
        assert boxes[0]["y"] == boxes[1]["y"] and all(box["width"] > 150 for box in boxes)
        assert all(box["y"] + box["height"] <= PHONE[1] for box in boxes)
    finally:
        page.set_viewport_size(dict(zip(("width", "height"), DESKTOP, strict=True)))


def test_it_requests_its_videos_and_nothing_else(page: "Page", study: Path) -> None:
    """The last of these tests: of all requests that they caused."""
    page.wait_for_function("clips.every(clip => clip.readyState === 4)")
    names = {url.rpartition("/")[2] for url in page.requested if not url.startswith(("blob:", "data:"))}
    videos = {file.name for file in (study / "videos").iterdir()}
    assert names <= videos | {"index.html"} and all(
        url.startswith(("file:", "blob:", "data:")) for url in page.requested
    )
