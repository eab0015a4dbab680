"""Page of a run: every video with its prompt, skeleton and seed, in one file beside the videos."""

from html.parser import HTMLParser
from urllib.parse import unquote

from followyourpose.generation.outputs import index_page


def record(*prompts: str) -> dict:
    videos = [
        {"prompt": prompt, "skeleton": "dance", "seed": seed, "files": [f"{seed} #{end}" for end in ENDS]}
        for seed, prompt in enumerate(prompts)
    ]
    return {"settings": {"width": 64, "height": 32, "style": "</pre><b>"}, "videos": videos, "device": "cpu"}


ENDS = (".mp4", ".gif", "-sheet.png", "-with-skeleton.mp4")


class Page(HTMLParser):
    """Tags of a page, the files that it names, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.files, self.text = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.files += [unquote(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_video_is_there_with_prompt_skeleton_and_seed():
    made = record("a cat", "a dog")
    page = Page(index_page(made))
    assert page.tags.count("video") == 2
    assert sorted(page.files) == sorted(file for video in made["videos"] for file in video["files"])
    assert "a cat" in page.text and "skeleton dance, seed 1" in page.text


def test_text_is_never_markup():
    prompt = """<script>alert("x")</script> & {braces} 'quotes'"""
    page = Page(index_page(record(prompt)))
    assert "script" not in page.tags and "b" not in page.tags and prompt in page.text


def test_the_page_is_self_contained_and_fits_a_phone():
    html = index_page(record("a cat"))
    assert "://" not in html and {"link", "script", "img"}.isdisjoint(Page(html).tags)
    assert '<meta name="viewport" content="width=device-width' in html and '<meta charset="utf-8">' in html
