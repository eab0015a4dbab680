"""`followyourpose demo`: the page on which prompts and driving videos become videos, in Gradio.

It listens on this machine alone unless told otherwise, asks nothing of any other server, and keeps what is uploaded and
made in a temporary folder. Gradio is imported late: the package works without it.
"""

import hmac
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from followyourpose.common.files import slug
from followyourpose.config import ConfigError, GenerateConfig
from followyourpose.generation.generate import FORMS, check_settings
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.web.controls import SEEDS, asked, drawing_controls, driving_controls, driving_video
from followyourpose.web.jobs import LAST_STEP, Cancelled, Report, Studio
from followyourpose.web.requests import SIGNATURES, Limits, check_upload, recipe

if TYPE_CHECKING:
    import gradio

HERE = ("127.0.0.1", "localhost", "::1")
BESIDE = ("random_seed", "request", "studio", "gr")  # names in the functions that the API shows which are no config's
CSS = """
footer {display: none}
.status progress {width: 100%}
.results .grid-container {grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) !important}
"""


# ---- serving ---------------------------------------------------------------------------------------------------------


def serve(
    config: GenerateConfig, limits: Limits, host: str = "127.0.0.1", port: int = 7860, password: str | None = None
) -> None:
    """Opens the page and waits until it is interrupted; arguments and errors as for `running_page`."""
    with running_page(config, limits, host, port, password) as url:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        if password is None and host not in HERE:
            print(f"listening on {host} without a password: whoever reaches this machine can use the page", flush=True)
        while True:
            time.sleep(3600)


@contextmanager
def running_page(
    config: GenerateConfig,
    limits: Limits = Limits(),  # noqa: B008, it is immutable
    host: str = "127.0.0.1",
    port: int | None = None,
    password: str | None = None,
) -> Iterator[str]:
    """Serves the page while entered, and gives its address.

    Args:
        config: the model, how it runs, and what the controls show at first; its prompts are suggestions, and its LoRAs
            those to choose from.
        limits: of what a client may ask for.
        host: the address to listen on; 0.0.0.0 is all of this machine's.
        port: None: one that is free.
        password: that clients have to give, with any user name; None: none is asked for.

    Raises:
        ValueError: Gradio is not installed, or a setting or the model cannot be used. OSError: the port is taken.
    """
    check_settings(config)
    before = {name: os.environ.get(name) for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
    with tempfile.TemporaryDirectory(prefix="followyourpose-", ignore_cleanup_errors=True) as folder:
        jobs, files = Path(folder, "jobs"), Path(folder, "files")  # Gradio serves the second alone
        jobs.mkdir()
        os.environ.update(GRADIO_TEMP_DIR=str(files), GRADIO_ANALYTICS_ENABLED="False")
        try:
            gradio = _gradio()
            studio = Studio(config, limits, jobs)
            page = build_page(studio)
            page.queue(max_size=limits.waiting, default_concurrency_limit=1)
            _, url, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
                auth=None if password is None else _asks_for(password),
                max_file_size=limits.upload_megabytes * 10**6, enable_monitoring=False, footer_links=[], css=CSS,
                theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            )  # fmt: skip
            closed = threading.Event()
            threading.Thread(target=_sweep, args=(files, 60 * limits.kept_minutes, closed), daemon=True).start()
            try:
                yield url
            finally:
                closed.set()
                page.close(verbose=False)
                studio.close()
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def _sweep(folder: Path, kept: float, closed: threading.Event) -> None:
    """Removes files of more than `kept` seconds, now and then, until it is closed. Gradio's own way misses results."""
    while not closed.wait(min(kept, 60)):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and time.time() - path.stat().st_mtime > kept:
                    path.unlink()


def _asks_for(password: str) -> Callable[[str, str], bool]:
    return lambda _, given: hmac.compare_digest(given.encode(), password.encode())


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("the page needs Gradio: pip install -e '.[demo]'") from error
    return gradio


# ---- the page --------------------------------------------------------------------------------------------------------


def build_page(studio: Studio) -> "gradio.Blocks":
    """The page of a studio: a tab that generates, and one that extracts skeletons."""
    import gradio as gr

    with gr.Blocks(title="Follow Your Pose", analytics_enabled=False) as page:
        gr.Markdown(f"# Follow Your Pose\nA video that follows a skeleton and a sentence. {studio.limits.stated()}")
        with gr.Tab("Generate"):
            _generate_tab(page, studio)
        with gr.Tab("Extract a skeleton"):
            _extract_tab(studio)

        def left(request: gr.Request) -> None:
            studio.cancel(request.session_hash)

        page.unload(left)
    page.preprocess_data = _uploads_only(page.preprocess_data)
    return page


def _uploads_only(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Gradio downloads a file that a client names by its address; here a file is uploaded, or it is refused."""

    def check(value: Any) -> None:
        if isinstance(value, dict) and str(value.get("path")).strip().lower().startswith(("http:", "https:")):
            raise ConfigError("got the address of a file, expected the file itself to be uploaded")
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                check(inner)

    async def checked(block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        check(inputs)
        return await preprocess(block_fn, inputs, *args, **kwargs)

    return checked


def _generate_tab(page: "gradio.Blocks", studio: Studio) -> None:
    import gradio as gr

    with gr.Row():
        with gr.Column(min_width=320):
            driving = driving_controls(studio.config, studio.limits)
            gr.Markdown("The frames that the model gets")
            picture = gr.Image(label="Frames", show_label=False, interactive=False, buttons=[], format="png")
            numbers = gr.HTML(label="Their numbers")
        with gr.Column(min_width=320):
            drawing = drawing_controls(studio.config, studio.limits)
            with gr.Row():
                start, cancel = gr.Button("Generate", variant="primary"), gr.Button("Cancel", variant="stop")
            status = gr.HTML(_bar("Ready."), label="Status", elem_classes="status")
            live = gr.Image(
                label="Under way", interactive=False, buttons=[], format="png", height=160, elem_classes="live"
            )
        with gr.Column(min_width=320):
            made = _made()
            used, again = gr.Number(label="Seed used", visible=False), gr.Button("Use this seed again")
    gallery = gr.Gallery(label="Results of this session", interactive=False, height=240, elem_classes="results")
    results = gr.State([])

    at_once = {"queue": False, "api_visibility": "private"}
    beside = {"show_progress": "hidden", "concurrency_limit": 4, "trigger_mode": "always_last"}
    changes = [page.load, *(control.change for control in driving.values())]
    gr.on(changes, _preview(studio), list(driving.values()), [picture, numbers], api_name="preview", **beside)
    source = [driving["sample"], driving["upload"]]
    within = [driving[name] for name in ("temporal_offset", "crop_left", "crop_right", "crop_top", "crop_bottom")]
    fits = [page.load, *(control.change for control in source)]
    gr.on(fits, _reach(studio), [*source, *within], within, api_visibility="private", **beside)

    values = {name: control for name, control in (driving | drawing).items() if name != "upload"}
    job = start.click(
        _generate(studio), [*values.values(), driving["upload"]], [*made.values(), status, live, used],
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
        studio.cancel(request.session_hash, wait=LAST_STEP)  # what it reports until then would come after this
        return _bar("Cancelled.")

    cancel.click(stop, None, status, cancels=[job], **at_once)


def _made() -> dict[str, "gradio.components.Component"]:
    """Lays out what shows a finished job, in the order of `_results`."""
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


def _extract_tab(studio: Studio) -> None:
    import gradio as gr

    videos = [suffix for suffix in SIGNATURES if suffix != ".json"]
    with gr.Row():
        with gr.Column(min_width=320):
            upload = gr.File(label="A video of people", file_types=videos, height=140)
            start = gr.Button("Extract", variant="primary")
        with gr.Column(min_width=320):
            skeleton = gr.Video(label="Skeleton", loop=True, interactive=False)
            overlay = gr.Video(label="Skeleton on the video", loop=True, interactive=False)
            files = gr.Files(label="Downloads", interactive=False)

    def extract(upload: str | None, progress: Any = gr.Progress(track_tqdm=True)) -> Iterator[list[Any]]:  # noqa: B008
        with _told():
            if upload is None:
                raise ConfigError("got no file, expected a video of people")
            with studio.extracted(Path(upload)) as folder:
                if not any(read_keypoints(folder / "keypoints.json").frames):
                    gr.Warning(f"{studio.config.pose.backend} found nobody, so the skeleton is black.")
                paths = [str(folder / name) for name in ("skeleton.mp4", "overlay.mp4", "keypoints.json")]
                yield [*paths[:2], paths]

    start.click(extract, upload, [skeleton, overlay, files], api_name="extract_pose")


# ---- what happens: Gradio takes the names of the HTTP API's parameters from these functions -------------------------


def _preview(studio: Studio) -> Callable[..., Any]:
    def preview(
        sample: str, pose_source: str, temporal_offset: int, stride: int, num_frames: int, skeleton_end: str,
        crop_left: int, crop_right: int, crop_top: int, crop_bottom: int, upload: str | None = None,
    ) -> tuple[np.ndarray | None, str]:  # fmt: skip
        values = {name: value for name, value in locals().items() if name not in BESIDE}
        try:
            picture, numbers = studio.preview(asked(studio.config, studio.limits, values))
        except ValueError as error:
            return None, f"⚠ {escape(str(error))}"
        return picture, f"{len(numbers)} frames of the driving video: {', '.join(map(str, numbers))}"

    return preview


def _reach(studio: Studio) -> Callable[..., Any]:
    import gradio as gr

    def reach(sample: str, upload: str | None, *values: int) -> list[Any]:
        """As far as the sliders of offset and crops, which have these values, go for this driving video."""
        try:
            info = check_upload(driving_video(sample, upload) or SAMPLE, studio.limits)
        except ValueError:
            return [gr.skip()] * len(values)  # the preview says what is wrong
        ends = (info.num_frames - 1, *(info.width - 1,) * 2, *(info.height - 1,) * 2)
        return [gr.update(maximum=end, value=min(value, end)) for value, end in zip(values, ends, strict=True)]

    return reach


def _generate(studio: Studio) -> Callable[..., Any]:
    import gradio as gr

    def generate(
        sample: str, pose_source: str, temporal_offset: int, stride: int, num_frames: int, skeleton_end: str,
        crop_left: int, crop_right: int, crop_top: int, crop_bottom: int, prompt: str, negative_prompt: str,
        seed: int, random_seed: bool, num_inference_steps: int, guidance_scale: float, pose_scale: float,
        scheduler: str, long_video_mode: str, lora: str, lora_weight: float, upload: str | None = None,
        request: gr.Request = None,
    ) -> Iterator[list[Any]]:  # fmt: skip
        values = {name: value for name, value in locals().items() if name not in BESIDE}
        if random_seed:
            values["seed"] = secrets.randbelow(SEEDS)
        with _told():
            config = asked(studio.config, studio.limits, values)
            for report in studio.generate(request.session_hash, config):
                if isinstance(report, Report):
                    picture = gr.skip() if report.picture is None else report.picture
                    yield [*[gr.skip()] * 5, _bar(report), picture, config.seed]
                else:
                    name = Path(upload).name if upload else config.skeleton
                    yield [*_results(report, config, name), _bar("Done."), None, config.seed]

    return generate


def _results(folder: Path, config: GenerateConfig, skeleton: str | None) -> list[Any]:
    """What is shown of a finished job: result, side by side, downloads, the command, and its settings."""
    name = f"{slug(config.prompt)}-{config.seed}.yaml"
    command = f"followyourpose generate {name}"
    text = f"# {command}\n{recipe(config, skeleton)}"
    (folder / name).write_text(text)
    (pair,) = folder.glob("*-with-skeleton.mp4")
    stem = pair.name.removesuffix("-with-skeleton.mp4")
    mp4, *others = (str(folder / f"{stem}{form}") for form in FORMS)
    return [mp4, str(pair), [mp4, *others, str(folder / name)], command, text]


def _bar(report: Report | str) -> str:
    """Where a job stands, as HTML: a report, or a text when none is to come."""
    if isinstance(report, str):
        return f"<p>{escape(report)}</p>"
    left = "" if report.seconds_left is None else f", about {report.seconds_left:.0f} s left"
    text = f"Step {report.done} of {report.total}{left}" if report.done else "Preparing"
    return f'<p>{text}</p><progress max="{report.total}" value="{report.done}"></progress>'


@contextmanager
def _told() -> Iterator[None]:
    """Tells the client what is wrong with its request; of an error of this program it learns no more than that."""
    import gradio as gr

    try:
        yield
    except Cancelled as error:
        raise gr.Error("Cancelled.", duration=3, print_exception=False) from error
    except ValueError as error:
        raise gr.Error(escape(str(error), quote=False), duration=None, print_exception=False) from error
