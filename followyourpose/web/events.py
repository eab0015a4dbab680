"""Events of the page's first tab: values of its components in, new values out.

Gradio names the parameters of the HTTP API after those of `generate`.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from followyourpose.config import GenerateConfig
from followyourpose.generation.outputs import FORMS
from followyourpose.generation.people import texts_of, title
from followyourpose.generation.skeletons import SAMPLE, RawVideoError
from followyourpose.web import markup
from followyourpose.web.clients import Clients, Event
from followyourpose.web.controls import LABELS, SAMPLES, SEEDS, YOUR_OWN, driving_video, in_labels
from followyourpose.web.jobs import OVER, Cancelled, Report
from followyourpose.web.requests import check_upload, public, recipe

if TYPE_CHECKING:
    import gradio

ASSETS = "followyourpose/assets"  # of the samples, as the command line finds them

# ---- before a job ----------------------------------------------------------------------------------------------------


def preview(clients: Clients, names: Sequence[str]) -> Event:
    """Event: the driving frames as HTML, and whether the search for people, and sentences of theirs, are offered."""
    import gradio as gr

    def event(request: gr.Request, *values: Any) -> tuple[str, Any, Any]:
        given, raw, crowds = dict(zip(names, values, strict=True)), False, []
        try:
            clients.check_files(request, given["upload"])
            *frames, crowds = clients.studio.preview(clients.config(given))
            shown = markup.frames(*frames) + markup.crowds(crowds)
        except RawVideoError:
            shown, raw = markup.plain("This is a video of people, and the model follows skeletons."), True
        except ValueError as error:
            shown = markup.problem(in_labels(public(str(error))))
        return shown, gr.update(visible=raw), gr.update(visible=bool(crowds or given["people"]))

    return event


def describe(clients: Clients, names: Sequence[str]) -> Event:
    """Event: how the prompt is read, the cost of the job, and the titles of the two folds."""
    import gradio as gr

    def event(*values: Any) -> list[Any]:
        given = dict(zip(names, values, strict=True))
        try:
            config = clients.config(given)
        except ValueError as error:
            message = in_labels(public(str(error)))
            at_prompt = message.startswith(("Prompt", LABELS["people"]))
            note, cost = (markup.problem(message), gr.skip()) if at_prompt else (gr.skip(), markup.problem(message))
            return [note, cost, gr.skip(), gr.skip()]
        reading = markup.read(*clients.studio.read(texts_of(config), given["lora"]))
        return [
            reading,
            markup.cost(config, clients.studio.estimate(config)),
            gr.update(label=markup.driving_title(config)),
            gr.update(label=markup.sampling_title(config, given["random_seed"], given["lora"])),
        ]

    return event


def slider_ends(clients: Clients) -> Event:
    """Event: ends of the sliders of first frame and crops for a driving video, and their values within them."""
    import gradio as gr

    def event(sample: str | None, upload: str | None, *values: int) -> list[Any]:
        try:
            path = driving_video(sample, upload) or SAMPLE
            info = clients.files.check(path) if upload else check_upload(path, clients.studio.limits)
        except ValueError:
            return [gr.skip()] * len(values)  # the preview shows the reason
        ends = (info.num_frames - 1, *(info.width - 1,) * 2, *(info.height - 1,) * 2)
        # A slider needs two ends; that of a single frame cannot be moved.
        return [
            gr.update(maximum=max(end, 1), value=min(value, end), interactive=end > 0)
            for value, end in zip(values, ends, strict=True)
        ]

    return event


def uploaded(path: str | None) -> dict[str, Any]:
    """Update of the upload's button: named after its file."""
    import gradio as gr

    return gr.update(value=path, label=Path(path).name if path else YOUR_OWN)


def taken(chosen: str | None) -> tuple[Any, str | None, str, str]:
    """Event: values of upload, sample, content and people, for a sample that was picked or a file that was given."""
    sample = chosen if chosen in SAMPLES else None
    return uploaded(None if sample else chosen), sample, "skeleton", ""


# ---- generation ------------------------------------------------------------------------------------------------------


def generate(clients: Clients) -> Event:
    """Event of the API: files of the result, its command and settings, the status, and the values that made it."""
    import gradio as gr

    def event(
        prompt: str, sample: str | None, temporal_offset: int, stride: int, num_frames: int, skeleton_end: str,
        fit: str, crop_left: int, crop_right: int, crop_top: int, crop_bottom: int, pose_source: str,
        skeleton_size: str, seed: int, random_seed: bool, num_inference_steps: int, guidance_scale: float,
        pose_scale: float, scheduler: str, negative_prompt: str, long_video_mode: str, lora: str, lora_weight: float,
        people: str, transition: int, upload: str | None = None, request: gr.Request = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        values = {name: value for name, value in locals().items() if name not in ("request", "clients", "gr")}
        if random_seed:
            values["seed"] = secrets.randbelow(SEEDS)
        start = time.monotonic()
        with clients.errors(request):
            clients.check_files(request, upload)
            config = clients.config(values)
            try:
                for report in clients.studio.generate(request.session_hash, config):
                    if isinstance(report, Report):
                        yield [*[gr.skip()] * 8, markup.progress(report, "Step"), None]
                    else:
                        clients.count(request, report)
                        name = Path(upload).name if upload else config.skeleton and f"{ASSETS}/{sample}.json"
                        made = f"{title(config.prompt)}, seed {config.seed}"
                        status = markup.plain(f"{made}, in {markup.duration(time.monotonic() - start)}")
                        yield [*_results(report, config, name), status, values | {"name": made}]
            except Cancelled:
                yield [*[gr.skip()] * 8, markup.plain("Cancelled."), None]

    return event


def _results(folder: Path, config: GenerateConfig, skeleton: str | None) -> list[str]:
    """Files of a result: video, gif, frames, beside and under its skeleton, settings; then command and settings."""
    (over,) = folder.glob(f"*{OVER}")
    name = over.name.removesuffix(OVER)
    command = f"followyourpose generate {name}.yaml"
    text = f"# {command}\n{recipe(config, skeleton)}"
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return [*(str(folder / f"{name}{form}") for form in (*FORMS, OVER, ".yaml")), command, text]


def remember(made: list[dict[str, Any]], used: dict[str, Any] | None, *shown: str) -> tuple[Any, ...]:
    """Event: add what is shown to what was made; update the gallery, the choice to compare with, and their place."""
    import gradio as gr

    if used is None:  # cancelled
        return made, gr.skip(), gr.skip(), gr.update(visible=bool(made))
    made = [*made, {"name": used["name"], "used": used, "shown": shown}]
    others = [("nothing", -1), *((f"{number}: {each['name']}", number - 1) for number, each in enumerate(made, 1))]
    cards = markup.cards([(each["name"], each["shown"][1]) for each in made])
    return made, cards, gr.update(choices=others), gr.update(visible=True)


def show(skeleton: int, other: int, made: list[dict[str, Any]], *files: str | None) -> list[Any]:
    """Event: the video in the form that is chosen, by its place in `files`, and the one to compare it with."""
    import gradio as gr

    second = made[other]["shown"][skeleton] if 0 <= other < len(made) else None
    return [files[skeleton], gr.update(value=second, visible=second is not None)]


def look_at() -> Event:
    """Event: show a result of the gallery again."""
    import gradio as gr

    def event(made: list[dict[str, Any]], chosen: gr.EventData) -> list[Any]:
        each = _chosen(made, chosen)
        return [*each["shown"], markup.plain(each["name"]), gr.update(visible=True)]

    return event


def use_again(names: Sequence[str]) -> Event:
    """Event: the values of all controls that made a result of the gallery."""
    import gradio as gr

    def event(made: list[dict[str, Any]], chosen: gr.EventData) -> list[Any]:
        used = _chosen(made, chosen)["used"]
        values = used | {"random_seed": False, "upload": uploaded(used["upload"])}
        return [values[name] for name in names]

    return event


def _chosen(made: list[dict[str, Any]], chosen: "gradio.EventData") -> dict[str, Any]:
    import gradio as gr

    each = made[int(chosen.index)]
    if not all(Path(file).exists() for file in (each["shown"][0], each["used"]["upload"]) if file):
        raise gr.Error("The files of this video were kept for their time, and are removed by now.", duration=None)
    return each
