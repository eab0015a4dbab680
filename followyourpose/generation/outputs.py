"""The page on which all videos of a run are seen side by side: one file that needs nothing but the videos beside it."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

INDEX = "index.html"

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.4 system-ui, sans-serif; margin: 1rem auto; max-width: 90rem; padding: 0 1rem; }}
main {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }}
figure {{ margin: 0; }}
video {{ background: #0003; border-radius: .4rem; display: block; height: auto; width: 100%; }}
figcaption {{ overflow-wrap: anywhere; padding: .4rem 0; }}
small {{ opacity: .8; }}
button {{ font: inherit; padding: .4rem 1rem; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p><button onclick="for (const video of document.querySelectorAll('video')) {{ video.currentTime = 0; video.play(); }}">
Play all</button></p>
<main>
{figures}
</main>
<details><summary>Settings</summary><pre>{settings}</pre></details>
</body>
</html>
"""
_FIGURE = """<figure>
<video controls loop muted playsinline preload="metadata" width="{width}" height="{height}" src="{mp4}"></video>
<figcaption>{prompt}<br><small>skeleton {skeleton}, seed {seed}<br>
<a href="{pair}">with skeleton</a> · <a href="{gif}">gif</a> · <a href="{sheet}">frames</a></small></figcaption>
</figure>"""


def index_page(record: Mapping[str, Any]) -> str:
    """The page of a run's record (run.json): each video with prompt, skeleton and seed, and the settings below.

    Addresses are relative to the run's folder, so the page can be opened from it, moved with it, or served.
    """
    settings, count = record["settings"], len(record["videos"])
    figures = []
    for video in record["videos"]:
        mp4, gif, sheet, pair = (escape(quote(file)) for file in video["files"])
        figures.append(
            _FIGURE.format(
                width=settings["width"],
                height=settings["height"],
                prompt=escape(video["prompt"]),
                skeleton=escape(video["skeleton"]),
                seed=video["seed"],
                mp4=mp4,
                gif=gif,
                sheet=sheet,
                pair=pair,
            )
        )
    about = json.dumps({key: value for key, value in record.items() if key != "videos"}, indent=2)
    title = "1 video" if count == 1 else f"{count} videos"
    return _PAGE.format(title=title, figures="\n".join(figures), settings=escape(about))
