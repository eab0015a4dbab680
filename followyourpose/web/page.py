"""Layout of the page, in Gradio: one tab generates, one extracts skeletons. What its parts do is in wiring.py."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from followyourpose.config import GenerateConfig
from followyourpose.web import markup
from followyourpose.web.controls import (
    FIND,
    PRESETS,
    driving_choice,
    driving_controls,
    people_control,
    prompt_controls,
    sampling_controls,
)
from followyourpose.web.requests import SIGNATURES, Limits

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

DOWNLOADS = ("Video", "GIF", "Frames", "With skeleton", "Skeleton over", "Settings")
FORMS = {"off": 0, "beside": 3, "over": 4}  # of the skeleton -> place of that video in DOWNLOADS
CARDS = """element.addEventListener('click', click => {
  const button = click.target.closest('button');
  if (button) trigger({look: 'look', again: 'again'}[button.dataset.event], {index: button.dataset.index});
})"""
BEGIN_SENTENCE = """element.addEventListener('click', click => {
  const number = click.target.closest('button')?.dataset.person, box = document.querySelector('.people textarea');
  if (number === undefined || !box) return;
  const lines = box.value.split('\\n').filter(line => line.trim());
  let place = lines.findIndex(line => line.trim().startsWith(number + ':'));
  if (place < 0) place = lines.push(number + ': ') - 1;
  box.value = lines.join('\\n');
  box.dispatchEvent(new Event('input', {bubbles: true}));
  box.focus();
  box.selectionStart = box.selectionEnd = lines.slice(0, place + 1).join('\\n').length;
})"""
CSS = """
footer {display: none}
:root {--problem: #b91c1c; --color-accent: #4f46e5}
.dark {--problem: #fca5a5; --color-accent: #a5b4fc}
.label-wrap {text-align: left}
.problem, .confidence .none {color: var(--problem); fill: var(--problem)}
:focus-visible {outline: 3px solid var(--primary-500) !important; outline-offset: 2px}
.html-container {padding: 0}
h1 {margin: 0}
h1 small {font-size: var(--text-md); font-weight: normal; margin-left: .5rem}
@media (max-width: 40rem) {h1 {font-size: 1.3rem} h1 small {display: none}}
.read, .cost, figcaption, .cards p {font-size: var(--text-sm); margin: 0}
.read .count {float: right; margin-left: 1rem}
.read u {text-decoration: underline wavy}
.suggestions .label {display: none}
.suggestions .gallery {flex-wrap: nowrap; overflow-x: auto}
.suggestions button {flex: none}
.suggestions button .gallery {overflow: visible; white-space: nowrap !important}
.choice {align-items: center}
.choice .wrap {gap: .25rem}
.choice label {padding: .3rem}
.choice button {display: block; overflow: hidden; text-overflow: ellipsis; white-space: nowrap}
.crowd {display: inline-block; margin-top: .5rem; position: relative}
.crowd img {max-height: 18rem; max-width: 100%}
.crowd button {background: none; border: 2px dashed transparent; min-height: 24px; min-width: 24px; position: absolute}
.crowd button:hover {border-color: white}
.frames img, .cards img, .confidence svg {width: 100%}
.confidence svg {fill: var(--primary-500); height: 3rem}
.empty-place {align-content: center; border: 1px dashed var(--border-color-primary); min-height: min(26rem, 50vh);
  padding: 1rem; text-align: center}
.empty-place img, progress {accent-color: var(--primary-500); display: block; margin: .5rem auto;
  width: min(100%, 34rem)}
.stage video {max-height: 62vh}
.cards {display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); padding: 0}
.cards li {list-style: none}
.cards button {background: var(--button-secondary-background-fill); border-radius: var(--radius-md); width: 100%}
"""


def theme() -> "gradio.themes.Base":
    """Return the page's colours, all with a contrast of 4.5 and more, and its fonts, which are the machine's own."""
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    subdued = {
        f"{name}{mode}": f"*neutral_{shade}"
        for name in (
            "body_text_color_subdued",
            "block_info_text_color",
            "block_label_text_color",
            "block_title_text_color",
        )
        for mode, shade in (("", 700), ("_dark", 200))
    }
    primary = {
        f"button_primary_{part}{mode}": value
        for part, value in (
            ("background_fill", "*primary_600"),
            ("background_fill_hover", "*primary_700"),
            ("text_color", "white"),
        )
        for mode in ("", "_dark")
    }
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", spacing_size="sm", **fonts).set(
        **subdued, **primary
    )


class Job(NamedTuple):
    """Components of a job: its buttons, the status, and the place of its result, which is shown once there is one."""

    start: "gradio.Button"
    cancel: "gradio.Button"  # in the place of `start` while the job runs
    status: "Component"
    place: "gradio.Column"


class Results(NamedTuple):
    """Components of the results of a visit; the latest or a chosen one is shown.

    Attributes:
        videos: the shown one, and one to compare it with; choices: form of the skeleton, and result to compare with.
        shown: downloads, command and settings; used: values that made the latest; all: results of this visit.
    """

    videos: list["Component"]
    choices: list["Component"]
    shown: list["Component"]
    gallery: "Component"
    used: "gradio.State"
    all: "gradio.State"


class GenerateTab(NamedTuple):
    """Components of the first tab: controls by the config's keys, those of sampling among them, and what is shown."""

    controls: dict[str, "Component"]
    driving: dict[str, "Component"]
    sampling: dict[str, "Component"]
    quality: "Component"
    find: "gradio.Button"
    frames: "Component"
    described: list["Component"]  # how the prompt is read, cost of the job, titles of the two folds
    job: Job
    results: Results


class ExtractTab(NamedTuple):
    """Components of the second tab. Downloads are the skeleton, the skeleton over the video, and the keypoints."""

    upload: "Component"
    overlay: "Component"
    downloads: list["Component"]
    everybody: "gradio.State"  # keypoints of all people
    strip: "Component"
    who: "Component"
    people: "Component"
    use: "gradio.Button"
    job: Job


def generate_tab(config: GenerateConfig, limits: Limits) -> GenerateTab:
    """Lay out the first tab."""
    import gradio as gr

    with gr.Row():
        with gr.Column(min_width=320, scale=2):
            (controls, prompts), note = prompt_controls(config), gr.HTML(label="Tokens")
            with gr.Column(elem_classes="suggestions"):
                gr.Examples(
                    [[text] for text in prompts], controls["prompt"], examples_per_page=len(prompts),
                    api_visibility="private",
                )  # fmt: skip
            controls |= driving_choice()
            frames, find = gr.HTML(label="Frames", js_on_load=BEGIN_SENTENCE), gr.Button(FIND, visible=False)
            controls |= people_control()
            quality = gr.Radio(list(PRESETS), value="standard", label="Quality")
            buttons, cost = _start_and_cancel("Generate"), gr.HTML(label="Time")
            with gr.Accordion("Frames", open=False) as driving_fold:
                driving = driving_controls(config, limits)
            with gr.Accordion("Look", open=False) as sampling_fold:
                sampling = sampling_controls(config, limits)
        with gr.Column(min_width=320, scale=3, elem_classes="stage"):
            status = _stage("Your video will appear here, and play at once.")
            place, results = _results()
    return GenerateTab(
        controls | driving | sampling, driving, sampling, quality, find, frames,
        [note, cost, driving_fold, sampling_fold], Job(*buttons, status, place), results,
    )  # fmt: skip


def _results() -> tuple["gradio.Column", Results]:
    """Lay out the place of a result, with its downloads, and the gallery of this visit."""
    import gradio as gr

    looks = {"autoplay": True, "loop": True, "interactive": False, "buttons": []}
    with gr.Column(visible=False) as place:
        with gr.Row():
            videos = [gr.Video(label="Result", **looks), gr.Video(label="Compared with", visible=False, **looks)]
        with gr.Row():
            choices = [
                gr.Radio(list(FORMS.items()), value=FORMS["off"], label="Skeleton"),
                gr.Dropdown([("nothing", -1)], value=-1, label="Compare with"),
            ]
        downloads = _downloads(DOWNLOADS)
        with gr.Accordion("The same video by the command line", open=False):
            command = gr.Textbox(label="Command", interactive=False, buttons=["copy"], elem_classes="command")
            settings = gr.Code(label="Settings, its file", language="yaml", interactive=False)
    gr.HTML("<h2>Made in this visit</h2>")
    gallery = gr.HTML(markup.cards([]), label="Made in this visit", js_on_load=CARDS)
    return place, Results(videos, choices, [*downloads, command, settings], gallery, gr.State(None), gr.State([]))


def extract_tab() -> ExtractTab:
    """Lay out the second tab."""
    import gradio as gr

    videos = [suffix for suffix in SIGNATURES if suffix != ".json"]
    with gr.Row():
        with gr.Column(min_width=320, scale=2):
            upload = gr.File(label="A video of people", file_types=videos, height=150)
            buttons = _start_and_cancel("Extract")
        with gr.Column(min_width=320, scale=3, elem_classes="stage"):
            status = _stage("Your video will appear here, with the skeletons of its people over it.")
            with gr.Column(visible=False) as place:
                overlay = gr.Video(
                    label="Skeletons over the video", autoplay=True, loop=True, interactive=False, buttons=[]
                )
                strip, who = gr.HTML(label="Confidence"), gr.HTML(label="People")
                people = gr.CheckboxGroup([], label="People to keep", visible=False)
                use = gr.Button("Drive a video with it", variant="primary")
                downloads = _downloads(("Skeleton", "Skeleton over", "Keypoints"))
    job = Job(*buttons, status, place)
    return ExtractTab(upload, overlay, downloads, gr.State(None), strip, who, people, use, job)


def _start_and_cancel(label: str) -> tuple["gradio.Button", "gradio.Button"]:
    import gradio as gr

    return gr.Button(label, variant="primary"), gr.Button("Cancel", visible=False)


def _stage(text: str) -> "Component":
    import gradio as gr

    return gr.HTML(markup.empty(text), label="Status", elem_classes="status")


def _downloads(labels: Sequence[str]) -> list["Component"]:
    """Lay out a button for each file to download."""
    import gradio as gr

    with gr.Row():
        gr.HTML("<p>Download</p>", min_width=70)
        return [gr.DownloadButton(label, size="sm", min_width=95) for label in labels]
