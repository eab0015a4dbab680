"""`followyourpose demo`: the Gradio server of the page (page.py).

It listens on this machine alone by default, reaches no other server, and keeps uploads and results in a temporary
folder. Gradio is imported late: the package works without it.
"""

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import get_args

from followyourpose.common.files import LOCK, locked
from followyourpose.config import ConfigError, GenerateConfig, Output
from followyourpose.generation.checks import check_settings, with_prompts
from followyourpose.pipeline.schedule import values_of
from followyourpose.web.files import ClientFiles
from followyourpose.web.jobs import Studio
from followyourpose.web.page import CSS, theme
from followyourpose.web.requests import Limits
from followyourpose.web.wiring import build_page

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
FOLDER = "followyourpose-"  # prefix of the temporary folder
SWEEP_SECONDS = 60  # between two looks at the age of files


def serve(
    config: GenerateConfig, limits: Limits, host: str = "127.0.0.1", port: int = 7860, password: str | None = None
) -> None:
    """Open the page and wait until interrupted; arguments and errors as for `running_page`."""
    with running_page(config, limits, host, port, password) as url:
        print(f"{url}  (Ctrl-C ends it)", flush=True)
        if password is None and host not in LOCAL_HOSTS:
            print(f"listening on {host} without a password: anyone who reaches this machine can use it", flush=True)
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
    """Serve the page while entered, and yield its address.

    Args:
        config: the model, how it runs, and the first values of the controls; its prompts are suggestions, its LoRAs a
            choice, and its people left out.
        limits: of a client's requests.
        host: address to listen on; 0.0.0.0: all addresses of this machine. At a local one (127.0.0.1, localhost, ::1)
            requests for other host names are refused; requests of other pages' scripts are everywhere.
        port: None: a free one.
        password: required of clients, with any user name; None: no login.

    Raises:
        ValueError: Gradio is not installed, or a setting or the model cannot be used. OSError: the port is taken.
    """
    first = {key: values_of(getattr(config, key))[0] for key in ("guidance_scale", "pose_scale")}
    config = replace(with_prompts(config), outputs=list(get_args(Output)), people=None, **first)  # all are shown
    check_settings(config)
    with _temporary_folder() as folder:
        jobs, files = folder / "jobs", folder / "files"  # Gradio serves the second alone
        jobs.mkdir()
        with _environment(GRADIO_TEMP_DIR=str(files), GRADIO_ANALYTICS_ENABLED="False"):
            _check_gradio()
            from starlette.middleware import Middleware

            from followyourpose.web.guard import Guard

            studio, client_files = Studio(config, limits, jobs), ClientFiles(folder, limits)
            page = build_page(studio, client_files)
            page.queue(max_size=limits.waiting, default_concurrency_limit=1)
            _, url, _ = page.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False,
                app_kwargs={"middleware": [Middleware(Guard, host=host, password=password, files=client_files)]},
                max_file_size=limits.upload_megabytes * 10**6, enable_monitoring=False, footer_links=[], css=CSS,
                theme=theme(),
            )  # fmt: skip
            closed = threading.Event()
            threading.Thread(target=studio.measure, daemon=True).start()
            threading.Thread(target=_sweep, args=(files, 60 * limits.kept_minutes, closed), daemon=True).start()
            try:
                yield url
            finally:
                closed.set()
                client_files.close()
                page.close(verbose=False)
                studio.close()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a new folder, locked and at the end removed; those of killed pages are removed first."""
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with suppress(OSError, ValueError):  # of another user, or of a page that is running
            own = not hasattr(os, "getuid") or old.lstat().st_uid == os.getuid()
            if own and not old.is_symlink() and (old / LOCK).exists():
                with locked(old):
                    shutil.rmtree(old)
    with tempfile.TemporaryDirectory(prefix=FOLDER, ignore_cleanup_errors=True) as folder, locked(Path(folder)):
        yield Path(folder)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables while entered."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _sweep(folder: Path, kept: float, closed: threading.Event) -> None:
    """Remove files older than `kept` seconds until `closed` is set. Gradio's `delete_cache` misses results."""
    while not closed.wait(min(kept, SWEEP_SECONDS)):
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):
                if path.is_file() and time.time() - path.stat().st_mtime > kept:
                    path.unlink()


def _check_gradio() -> None:
    """Raise a ConfigError where Gradio is not installed."""
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError("the page needs Gradio: pip install -e '.[demo]'") from error
