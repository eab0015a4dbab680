"""Layout and events of the page, in Gradio: one tab generates, one extracts skeletons.

Gradio names the parameters of the HTTP API after those of the event functions here.
"""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.common.files import slug
from followyourpose.config import ConfigError, GenerateConfig
from followyourpose.generation.outputs import FORMS
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.web.controls import SEEDS, drawing_controls, driving_controls, driving_video, requested_config
from followyourpose.web.files import ClientFiles, size_of
from followyourpose.web.jobs import LAST_STEP, Cancelled, Report, Studio
from followyourpose.web.requests import SIGNATURES, check_upload, public, recipe

if TYPE_CHECKING:
    import gradio

NOT_CONTROLS = {"random_seed", "request", "studio", "files", "gr"}  # names in events that are no config's keys
CSS = """
footer {display: none}
.status progress {width: 100%}
.results .grid-container {grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) !important}
"""


# ---- layout ----------------------------------------------------------------------------------------------------------


def build_page(studio: Studio, files: ClientFiles) -> "gradio.Blocks":
    """Return the page of a studio, whose clients have their files checked and counted."""
    import gradio as gr

    with gr.Blocks(title="Follow Your Pose", analytics_enabled=False) as page:
        gr.Markdown(f"# Follow Your Pose\nA video that follows a skeleton and a sentence. {studio.limits.summary()}")
        with gr.Tab("Generate"):
            _generate_tab(page, studio, files)
        with gr.Tab("Extract a skeleton"):
            _extract_tab(studio, files)

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


def _generate_tab(page: "gradio.Blocks", studio: Studio, files: ClientFiles) -> None:
    import gradio as gr

    with gr.Row():
        with gr.Column(min_width=320):
            driving = driving_controls(studio.config, studio.limits)
            gr.Markdown("The frames that the model gets")
            picture = gr.Image(label="Frames", show_label=False, interactive=False, buttons=[], format="png")
            numbers = gr.HTML(label="Frame numbers")
        with gr.Column(min_width=320):
            drawing = drawing_controls(studio.config, studio.limits)
            with gr.Row():
                start, cancel = gr.Button("Generate", variant="primary"), gr.Button("Cancel", variant="stop")
            status = gr.HTML(_status("Ready."), label="Status", elem_classes="status")
            live = gr.Image(
                label="Under way", interactive=False, buttons=[], format="png", height=160, elem_classes="live"
            )
        with gr.Column(min_width=320):
            made = _result_components()
            used, again = gr.Number(label="Seed used", visible=False), gr.Button("Use this seed again")
    gallery = gr.Gallery(label="Results of this session", interactive=False, height=240, elem_classes="results")
    results = gr.State([])

    at_once = {"queue": False, "api_visibility": "private"}
    beside = {"show_progress": "hidden", "concurrency_limit": 4, "trigger_mode": "always_last"}
    changes = [page.load, *(control.change for control in driving.values())]
    gr.on(changes, _preview(studio, files), list(driving.values()), [picture, numbers], api_name="preview", **beside)
    source = [driving["sample"], driving["upload"]]
    within = [driving[name] for name in ("temporal_offset", "crop_left", "crop_right", "crop_top", "crop_bottom")]
    fits = [page.load, *(control.change for control in source)]
    gr.on(fits, _slider_ends(studio, files), [*source, *within], within, api_visibility="private", **beside)

    values = {name: control for name, control in (driving | drawing).items() if name != "upload"}
    job = start.click(
        _generate(studio, files), [*values.values(), driving["upload"]], [*made.values(), status, live, used],
        api_name="generate", concurrency_id="model", show_progress="minimal", show_progress_on=status,
    )  # fmt: skip
    job.success(
        lambda files, results: ([*results, (files[1], Path(files[-1]).stem)],) * 2,
        [made["files"], results], [gallery, results], **at_once,
    )  # fmt: skip
    seeds = [drawing["seed"], drawing["random_seed"]]
    again.click(
        lambda used, seed, random: (seed, random) if used is None else (int(used), False), [used, *seeds], seeds,
        **at_once,
    )  # fmt: skip

    def stop(request: gr.Request) -> str:
        studio.cancel(request.session_hash, wait=LAST_STEP)  # a report of its last step would replace this status
        return _status("Cancelled.")

    cancel.click(stop, None, status, cancels=[job], **at_once)


def _result_components() -> dict[str, "gradio.components.Component"]:
    """Lay out the components of a finished job, in the order of `_results`."""
    import gradio as gr

    return {
        "video": gr.Video(label="Result", autoplay=True, loop=True, interactive=False),
        "pair": gr.Video(label="Skeleton and result", autoplay=True, loop=True, interactive=False),
        "files": gr.Files(label="Downloads", interactive=False),
        "command": gr.Textbox(
            label="Command for the same video", interactive=False, buttons=["copy"], elem_classes="command"
        ),
        "settings": gr.Code(label="Settings in its file", language="yaml", interactive=False),
    }


def _extract_tab(studio: Studio, files: ClientFiles) -> None:
    import gradio as gr

    videos = [suffix for suffix in SIGNATURES if suffix != ".json"]
    with gr.Row():
        with gr.Column(min_width=320):
            upload = gr.File(label="A video of people", file_types=videos, height=140)
            start = gr.Button("Extract", variant="primary")
        with gr.Column(min_width=320):
            skeleton = gr.Video(label="Skeleton", loop=True, interactive=False)
            overlay = gr.Video(label="Skeleton on the video", loop=True, interactive=False)
            downloads = gr.Files(label="Downloads", interactive=False)

    def extract(
        upload: str | None, progress: Any = gr.Progress(track_tqdm=True), request: gr.Request = None  # noqa: B008
    ) -> Iterator[list[Any]]:  # fmt: skip
        with _client_errors():
            if upload is None:
                raise ConfigError("got no file, expected a video of people")
            _check_files(files, request, upload)
            with studio.extracted(Path(upload)) as folder:
                files.add(_client(request), str(folder), size_of(folder))
                if not any(read_keypoints(folder / "keypoints.json").frames):
                    gr.Warning(f"{studio.config.pose.backend} found nobody, so the skeleton is black.")
                paths = [str(folder / name) for name in ("skeleton.mp4", "overlay.mp4", "keypoints.json")]
                yield [*paths[:2], paths]

    start.click(extract, upload, [skeleton, overlay, downloads], api_name="extract_pose")


# ---- events ----------------------------------------------------------------------------------------------------------


def _preview(studio: Studio, files: ClientFiles) -> Callable[..., Any]:
    import gradio as gr

    def preview(
        sample: str, pose_source: str, temporal_offset: int, stride: int, num_frames: int, skeleton_end: str,
        crop_left: int, crop_right: int, crop_top: int, crop_bottom: int, upload: str | None = None,
        request: gr.Request = None,
    ) -> tuple[np.ndarray | None, str]:  # fmt: skip
        values = {name: value for name, value in locals().items() if name not in NOT_CONTROLS}
        try:
            _check_files(files, request, upload)
            picture, numbers = studio.preview(requested_config(studio.config, studio.limits, values))
        except ValueError as error:
            return None, f"⚠ {escape(public(str(error)))}"
        frames = "1 frame" if len(numbers) == 1 else f"{len(numbers)} frames"
        return picture, f"{frames} of the driving video: {', '.join(map(str, numbers))}"

    return preview


def _slider_ends(studio: Studio, files: ClientFiles) -> Callable[..., Any]:
    import gradio as gr

    def slider_ends(sample: str, upload: str | None, *values: int) -> list[Any]:
        """Ends of the sliders of offset and crops for a driving video, and their values within them."""
        try:
            path = driving_video(sample, upload) or SAMPLE
            info = files.check(path) if upload else check_upload(path, studio.limits)
        except ValueError:
            return [gr.skip()] * len(values)  # the preview shows the reason
        ends = (info.num_frames - 1, *(info.width - 1,) * 2, *(info.height - 1,) * 2)
        return [gr.update(maximum=end, value=min(value, end)) for value, end in zip(values, ends, strict=True)]

    return slider_ends


def _generate(studio: Studio, files: ClientFiles) -> Callable[..., Any]:
    import gradio as gr

    def generate(
        sample: str, pose_source: str, temporal_offset: int, stride: int, num_frames: int, skeleton_end: str,
        crop_left: int, crop_right: int, crop_top: int, crop_bottom: int, prompt: str, negative_prompt: str,
        seed: int, random_seed: bool, num_inference_steps: int, guidance_scale: float, pose_scale: float,
        scheduler: str, long_video_mode: str, lora: str, lora_weight: float, upload: str | None = None,
        request: gr.Request = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        values = {name: value for name, value in locals().items() if name not in NOT_CONTROLS}
        if random_seed:
            values["seed"] = secrets.randbelow(SEEDS)
        with _client_errors():
            _check_files(files, request, upload)
            config = requested_config(studio.config, studio.limits, values)
            for report in studio.generate(request.session_hash, config):
                if isinstance(report, Report):
                    picture = gr.skip() if report.picture is None else report.picture
                    yield [*[gr.skip()] * 5, _status(report), picture, config.seed]
                else:
                    files.add(_client(request), str(report), size_of(report))
                    name = Path(upload).name if upload else config.skeleton
                    yield [*_results(report, config, name), _status("Done."), None, config.seed]

    return generate


def _results(folder: Path, config: GenerateConfig, skeleton: str | None) -> list[Any]:
    """Values of `_result_components`: result, side by side, downloads, command, and settings."""
    name = f"{slug(config.prompt)}-{config.seed}.yaml"
    command = f"followyourpose generate {name}"
    text = f"# {command}\n{recipe(config, skeleton)}"
    (folder / name).write_text(text, encoding="utf-8")
    (pair,) = folder.glob("*-with-skeleton.mp4")
    stem = pair.name.removesuffix("-with-skeleton.mp4")
    mp4, *others = (str(folder / f"{stem}{form}") for form in FORMS)
    return [mp4, str(pair), [mp4, *others, str(folder / name)], command, text]


def _status(report: Report | str) -> str:
    """Return the progress of a job as HTML, or a text without a bar."""
    if isinstance(report, str):
        return f"<p>{escape(report)}</p>"
    left = "" if report.seconds_left is None else f", about {report.seconds_left:.0f} s left"
    text = f"Step {report.done} of {report.total}{left}" if report.done else "Preparing"
    return f'<p>{text}</p><progress max="{report.total}" value="{report.done}"></progress>'


def _check_files(files: ClientFiles, request: "gradio.Request", upload: str | None) -> None:
    """Check that a client has quota left and that its upload, if any, can be used; errors as for `ClientFiles`."""
    files.check_quota(_client(request))
    if upload:
        files.check(Path(upload))


def _client(request: "gradio.Request") -> str:
    return request.client.host


@contextmanager
def _client_errors() -> Iterator[None]:
    """Show a client the errors of its own request; of an error of this program it sees no more than that."""
    import gradio as gr

    try:
        yield
    except Cancelled as error:
        raise gr.Error("Cancelled.", duration=3, print_exception=False) from error
    except ValueError as error:
        raise gr.Error(escape(public(str(error)), quote=False), duration=None, print_exception=False) from error
