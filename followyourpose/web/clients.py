"""Requests of clients: values checked, files within limits, and the latest error of each for its own page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from followyourpose.config import GenerateConfig
from followyourpose.web import markup
from followyourpose.web.controls import in_labels, requested_config
from followyourpose.web.files import ClientFiles, size_of
from followyourpose.web.jobs import Studio
from followyourpose.web.requests import public

if TYPE_CHECKING:
    import gradio

Event = Callable[..., Any]
NOT_CONTROLS = {"random_seed", "request"}  # parameters that are no config's keys
MOST_ERRORS = 1000  # remembered, of clients that do not fetch theirs


class Clients:
    """Requests of clients: their files within limits, and the latest error of each for its own page.

    Args:
        studio: of their jobs; files: of their uploads and results.
    """

    def __init__(self, studio: Studio, files: ClientFiles) -> None:
        self.studio, self.files = studio, files
        self._errors: dict[str | None, str] = {}

    def config(self, values: dict[str, Any]) -> GenerateConfig:
        """Return the config of the values of controls; errors as for `requested_config`."""
        keys = {name: value for name, value in values.items() if name not in NOT_CONTROLS}
        return requested_config(self.studio.config, self.studio.limits, keys)

    def check_files(self, request: "gradio.Request", upload: str | None) -> None:
        """Check that a client has quota left and that its upload, if any, can be used; errors as for `ClientFiles`."""
        self.files.check_quota(request.client.host)
        if upload:
            self.files.check(Path(upload))

    def count(self, request: "gradio.Request", folder: Path) -> None:
        """Count the files of a result to its client."""
        self.files.add(request.client.host, str(folder), size_of(folder))

    @contextmanager
    def errors(self, request: "gradio.Request") -> Iterator[None]:
        """Answer a client with the errors of its own request; of an error of this program it gets no more than that."""
        import gradio as gr

        try:
            yield
        except ValueError as error:
            message = public(str(error))
            self._errors[request.session_hash] = message
            if len(self._errors) > MOST_ERRORS:
                self._errors.pop(next(iter(self._errors)))
            # Invisible: the page shows it beside its control.
            raise gr.Error(escape(message, quote=False), visible=False, print_exception=False) from error

    def cancel(self, request: "gradio.Request", wait: float = 0) -> None:
        """Cancel the jobs of a client, which is no error, and wait for them up to so many seconds."""
        self._errors[request.session_hash] = ""
        self.studio.cancel(request.session_hash, wait)

    def failed(self) -> Event:
        """Event: the latest error of a client in the words of the labels, as HTML."""
        import gradio as gr

        def event(request: gr.Request) -> Any:
            message = self._errors.pop(request.session_hash, "It did not start.")
            return markup.problem(in_labels(message)) if message else gr.skip()

        return event
