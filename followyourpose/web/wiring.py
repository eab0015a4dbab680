"""Connections of the page's parts: which event of which component calls what, with which values."""

import inspect
import sys
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from followyourpose.config import ConfigError
from followyourpose.web import events, extraction, markup
from followyourpose.web.clients import Clients
from followyourpose.web.controls import preset
from followyourpose.web.files import ClientFiles
from followyourpose.web.jobs import LAST_STEP, Studio
from followyourpose.web.page import DOWNLOADS, ExtractTab, GenerateTab, Job, Results, extract_tab, generate_tab
from followyourpose.web.requests import public

if TYPE_CHECKING:
    import gradio
    from gradio.components import Component

AT_ONCE = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
BESIDE_JOBS = {"api_visibility": "private", "concurrency_limit": 4, "trigger_mode": "always_last"}
INTO_VIEW = """() => {
  [...document.querySelectorAll('.stage')].find(stage => stage.offsetParent)?.scrollIntoView({block: 'nearest'})}"""
IN_STEP = """() => setTimeout(() => document.querySelectorAll('.stage video').forEach(
  video => {video.currentTime = 0; video.play()}), 500)"""


def build_page(studio: Studio, files: ClientFiles) -> "gradio.Blocks":
    """Return the page of a studio, whose clients have their files checked and counted."""
    import gradio as gr

    clients = Clients(studio, files)
    with gr.Blocks(title="Follow Your Pose", analytics_enabled=False) as page:
        gr.HTML("<h1>Follow Your Pose <small>Write who is where, choose a dance, press Generate.</small></h1>")
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="generate"):
                tab = generate_tab(studio.config, studio.limits)
            with gr.Tab("Extract a skeleton", id="extract"):
                other = extract_tab()
        with gr.Accordion("Limits", open=False):
            gr.HTML(markup.plain(studio.limits.summary()))
        take = _connect_generation(page, tab, clients)
        _connect_extraction(other, clients)
        take(other.use.click, other.downloads[-1])
        other.use.click(lambda: gr.update(selected="generate"), None, tabs, **AT_ONCE)

        def disconnected(request: gr.Request) -> None:
            studio.cancel(request.session_hash)

        page.unload(disconnected)
    page.preprocess_data = _checked(page.preprocess_data)
    return page


def _checked(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse values that no control can have, in one line, and addresses of files, which Gradio would download."""
    import gradio as gr

    def check(value: Any) -> None:
        if isinstance(value, dict) and str(value.get("path")).strip().lower().startswith(("http:", "https:")):
            raise ConfigError("got the address of a file, expected the file itself to be uploaded")
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                check(inner)

    async def checked(block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        try:
            check(inputs)
            if block_fn.fn is None:
                raise ConfigError("got an event of the browser alone")
            return await preprocess(block_fn, inputs, *args, **kwargs)
        except Exception as error:  # of any kind: each control fails in its own way
            reason = public(str(getattr(error, "message", error)).strip().partition("\n")[0][:300])
            print(f"refused: {block_fn.api_name}: {ascii(reason)[1:-1]}", file=sys.stderr, flush=True)
            raise gr.Error(escape(reason, quote=False), duration=None, print_exception=False) from error

    return checked


def _connect_generation(page: "gradio.Blocks", tab: GenerateTab, clients: Clients) -> Callable[..., None]:
    """Connect the first tab; return the function that makes an event take a component's file as driving video."""
    import gradio as gr

    controls, driving = tab.controls, tab.driving
    names, values = list(controls), list(controls.values())
    within = [driving[name] for name in ("temporal_offset", "crop_left", "crop_right", "crop_top", "crop_bottom")]
    frames = {
        "fn": events.preview(clients, names), "inputs": values, "outputs": [tab.frames, tab.find, controls["people"]],
        "show_progress": "minimal", "show_progress_on": tab.frames, **BESIDE_JOBS,
    }  # fmt: skip
    ends = {
        "fn": events.slider_ends(clients), "inputs": [controls["sample"], controls["upload"], *within],
        "outputs": within, "show_progress": "hidden", **BESIDE_JOBS,
    }  # fmt: skip
    texts = {
        "fn": events.describe(clients, names), "inputs": values, "outputs": tab.described,
        "trigger_mode": "always_last", **AT_ONCE,
    }  # fmt: skip
    page.load(**ends)
    gr.on([page.load, *(control.change for control in driving.values())], **frames)
    gr.on([page.load, *(control.change for name, control in controls.items() if name != "upload")], **texts)

    def take(event: Any, file: "Component | None") -> None:
        outputs = [controls[name] for name in ("upload", "sample", "pose_source", "people")]
        taken = event(events.taken, file, outputs, **AT_ONCE)
        taken.then(**ends).then(**frames)  # one after the other: values beyond the new ends would be refused

    take(controls["upload"].upload, controls["upload"])
    take(controls["sample"].input, controls["sample"])
    tab.find.click(lambda: "raw", None, driving["pose_source"], **AT_ONCE)
    _connect_presets(tab, clients).then(**texts)

    function, results = events.generate(clients), tab.results
    inputs = [controls[name] for name in inspect.signature(function).parameters if name in controls]
    outputs = [*results.shown, tab.job.status, results.used]
    job = _start(tab.job, clients, function, inputs, outputs, api_name="generate", concurrency_id="model")
    _connect_results(tab.job, results, job)
    again = results.gallery.again(events.use_again(names), results.all, values, **AT_ONCE)
    for event in (frames, texts):
        again.then(**event)
    return take


def _connect_presets(tab: GenerateTab, clients: Clients) -> Any:
    """Let a preset set its controls, and a control that is moved by hand end the preset; return the first event."""
    config, limits = clients.studio.config, clients.studio.limits
    controls = [tab.sampling[name] for name in preset("standard", config, limits)]
    for control in controls:
        control.input(lambda: None, None, tab.quality, **AT_ONCE)
    return tab.quality.input(lambda name: list(preset(name, config, limits).values()), tab.quality, controls, **AT_ONCE)


def _connect_results(parts: Job, results: Results, job: Any) -> None:
    """Connect the results of a job to the gallery, the switch of the skeleton, and the comparison."""
    import gradio as gr

    files = results.shown[: len(DOWNLOADS)]
    show = {"fn": events.show, "inputs": [*results.choices, results.all, *files], "outputs": results.videos, **AT_ONCE}
    kept = job.success(
        events.remember, [results.all, results.used, *results.shown],
        [results.all, results.gallery, results.choices[1], parts.place], **AT_ONCE,
    )  # fmt: skip
    looked = results.gallery.look(events.look_at(), results.all, [*results.shown, parts.status, parts.place], **AT_ONCE)
    for event in (kept, looked):
        event.then(**show)
    chosen = [choice.input for choice in results.choices]
    gr.on(chosen, trigger_mode="always_last", **show).then(None, js=IN_STEP)


def _connect_extraction(tab: ExtractTab, clients: Clients) -> None:
    """Connect the second tab."""
    import gradio as gr

    files = [tab.overlay, *tab.downloads]
    outputs = [*files, tab.job.status, tab.strip, tab.who, tab.people]
    job = _start(tab.job, clients, extraction.extract(clients), [tab.upload], outputs, api_name="extract_pose")
    kept = tab.downloads[-1]  # its file lies where uploads do; that of the job is gone
    job.success(
        lambda path: (path, gr.update(visible=path is not None)), kept, [tab.everybody, tab.job.place], **AT_ONCE
    )
    tab.people.input(
        extraction.choose_people(clients), [tab.upload, tab.everybody, tab.people], [*files, tab.strip],
        api_visibility="private", show_progress_on=tab.overlay,
    ).failure(clients.failed(), None, tab.job.status, **AT_ONCE)  # fmt: skip


def _start(
    parts: Job,
    clients: Clients,
    function: Callable[..., Any],
    inputs: Sequence["Component"],
    outputs: Sequence["Component"],
    **options: Any,
) -> Any:
    """Start a job by one button and cancel it by another, which is there only meanwhile; return the job's event."""
    import gradio as gr

    buttons, status = [parts.start, parts.cancel], parts.status

    def swap(running: bool) -> list[Any]:
        return [gr.update(visible=not running), gr.update(visible=running)]

    def begin() -> list[Any]:
        return [*swap(True), markup.empty("Waiting for its turn"), gr.update(visible=False)]

    def stop(request: gr.Request) -> list[Any]:
        clients.cancel(request, wait=LAST_STEP)  # a late report would replace this status
        return [*swap(False), markup.plain("Cancelled.")]

    parts.start.click(begin, None, [*buttons, status, parts.place], js=INTO_VIEW, **AT_ONCE)
    job = parts.start.click(function, inputs, outputs, show_progress="minimal", show_progress_on=status, **options)
    job.failure(clients.failed(), None, status, **AT_ONCE)
    for end in (job.success, job.failure):
        end(lambda: swap(False), None, buttons, **AT_ONCE)
    parts.cancel.click(stop, None, [*buttons, status], cancels=[job], **AT_ONCE)
    return job
