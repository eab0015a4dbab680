"""The guard before the page's server: hosts, origins, login, quotas, verdicts on uploads, and one line per refusal."""

import asyncio
import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import pytest

from followyourpose.common.files import LOCK
from followyourpose.config import GenerateConfig
from followyourpose.data.video_io import write_video
from followyourpose.data.video_readers import VideoInfo
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.web import app as web_app
from followyourpose.web import files as web_files
from followyourpose.web.files import ClientFiles
from followyourpose.web.requests import Limits
from tests.tiny import write_image_model

pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")
gradio_client = pytest.importorskip("gradio_client")

from followyourpose.web import guard as web_guard  # noqa: E402
from followyourpose.web.guard import Guard  # noqa: E402

SECRETS = ("a secret prompt", "secret-lora", "num_inference_steps")
UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/generate"


class Answer(NamedTuple):
    """Status, headers and text of an answer; `lines`: those that were printed."""

    status: int
    headers: dict[str, str]
    text: str
    lines: list[str]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Send a request through a guard to a server that answers "served", or fails, at /late after its first words."""

    async def served(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"serv", "more_body": True})
        if scope["path"] in ("/early", "/late"):
            raise RuntimeError("a\nb")
        await receive()
        body = json.dumps(scope["uploaded"]) if scope["path"] == UPLOAD else "served"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body.encode()})

    def send_through(
        guard: Guard, method: str = "GET", path: str = "/", body: bytes = b"", uploaded: list[Path] = [],  # noqa: B006
        client: str = "10.0.0.1", **headers: str | None,
    ) -> Answer:  # fmt: skip
        given = {"host": "127.0.0.1:7860"} | ({"content_length": str(len(body))} if method == "POST" else {}) | headers
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http", "method": method, "path": path, "query_string": b"", "scheme": "http",
            "server": ("127.0.0.1", 7860), "client": (client, 1), "uploaded": [str(file) for file in uploaded],
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items() if v is not None],
        }  # fmt: skip

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def collect(message: dict[str, Any]) -> None:
            sent.append(message)

        guard.app = served
        asyncio.run(guard(scope, receive, collect))
        start, *rest = sent
        return Answer(
            start["status"], {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in rest).decode(), capsys.readouterr().err.splitlines(),
        )  # fmt: skip

    return send_through


def guard_of(folder: Path, host: str = "127.0.0.1", password: str | None = None, **limits: int) -> Guard:
    return Guard(lambda *_: None, host, password, ClientFiles(folder, Limits(**limits)))


def refused(answer: Answer, status: int, reason: str) -> bool:
    """Whether a request was refused, with one line for the client and one in the log."""
    said = json.loads(answer.text)["detail"]
    return (
        answer.status == status and reason in said and "\n" not in said and len(answer.lines) == 1
        and answer.lines[0].startswith("refused: ") and answer.lines[0].endswith(said)
    )  # fmt: skip


# ---- hosts and origins -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"])
def test_local_host_names_are_served(ask: Callable[..., Answer], tmp_path: Path, host: str) -> None:
    assert ask(guard_of(tmp_path), host=host).text == "served"


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "0.0.0.0", "[::1", "", None]
)
def test_other_host_names_are_refused_on_this_machine(
    ask: Callable[..., Answer], tmp_path: Path, host: str | None
) -> None:
    for method in ("GET", "POST"):
        assert refused(ask(guard_of(tmp_path), method, host=host), 403, "Host: got")
    assert ask(guard_of(tmp_path, "0.0.0.0"), host=host).text == "served"


@pytest.mark.parametrize("path", [UPLOAD, CALL, "/gradio_api/queue/join", "/gradio_api/cancel", "/login"])
def test_scripts_of_other_pages_are_refused(ask: Callable[..., Answer], tmp_path: Path, path: str) -> None:
    for listening in ("127.0.0.1", "0.0.0.0"):
        for origin in ("http://evil.example", "null", "", "http://127.0.0.1:1", "http://127.0.0.1:7860.evil.example"):
            answer = ask(guard_of(tmp_path, listening, "let me in"), "POST", path, origin=origin)
            assert refused(answer, 403, "Origin: got")
    assert ask(guard_of(tmp_path), "POST", CALL, origin="http://127.0.0.1:7860").text == "served"
    forwarded = {"origin": "https://poses.example", "x_forwarded_host": "poses.example"}  # behind a proxy
    assert ask(guard_of(tmp_path), "POST", CALL, **forwarded).text == "served"


def test_a_request_that_fails_in_the_server_is_one_line(ask: Callable[..., Answer], tmp_path: Path) -> None:
    early, late = ask(guard_of(tmp_path), path="/early"), ask(guard_of(tmp_path), path="/late")
    assert (early.status, early.text) == (400, '{"detail":"the request cannot be served"}')
    assert (late.status, late.text) == (200, "serv")
    for answer, path in ((early, "/early"), (late, "/late")):
        (line,) = answer.lines
        assert line.startswith(f"refused: GET {path} of 10.0.0.1: RuntimeError in test_web_guard.py:")
        assert line.endswith(": a b")


# ---- login -----------------------------------------------------------------------------------------------------------


def log_in(ask: Callable[..., Answer], guard: Guard, password: str, **others: str) -> Answer:
    return ask(guard, "POST", "/login", urlencode({"username": "a", "password": password}).encode(), **others)


def test_nothing_but_the_login_is_served_before_it(ask: Callable[..., Answer], tmp_path: Path) -> None:
    guard = guard_of(tmp_path, password="let me in")
    page = ask(guard)
    assert page.status == 200 and 'action="login"' in page.text and not page.lines
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data", "/gradio_api/file=/a", "/assets/x", "/x/.."):
        assert refused(ask(guard, path=path), 401, "Not authenticated")
        assert refused(ask(guard, path=path, cookie=f"{guard.cookie}=guessed"), 401, "Not authenticated")
    for path in (UPLOAD, CALL, "/gradio_api/cancel", "/"):
        assert refused(ask(guard, "POST", path), 401, "Not authenticated")
    assert refused(log_in(ask, guard, "let me"), 401, "login: got a wrong password")
    cookie = log_in(ask, guard, "let me in").headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=lax" in cookie.lower()
    assert ask(guard, path="/config", cookie=cookie.partition(";")[0]).text == "served"


def test_a_browser_is_led_from_the_login_to_the_page(ask: Callable[..., Answer], tmp_path: Path) -> None:
    guard = guard_of(tmp_path, password="let me in")
    wrong = log_in(ask, guard, "<b>", accept="text/html,*/*")
    assert wrong.status == 401 and "login: got a wrong password" in wrong.text and "<form" in wrong.text
    assert len(wrong.lines) == 1
    right = log_in(ask, guard, "let me in", accept="text/html,*/*")
    assert right.status == 303 and right.headers["location"] == "./" and guard.cookie in right.headers["set-cookie"]


def test_wrong_passwords_slow_their_client_down(
    ask: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(web_guard, "time", SimpleNamespace(monotonic=lambda: now[0]))
    guard, waits = guard_of(tmp_path, password="let me in"), []
    for count in range(1, 13):
        assert log_in(ask, guard, "guessed").status == 401
        wait = guard.wrong["10.0.0.1"][1] - now[0]
        if wait:
            reason = f"login: got {count} wrong passwords, expected the next attempt in {wait:.0f} s"
            assert refused(log_in(ask, guard, "let me in"), 429, reason)
        now[0] += wait
        waits.append(wait)
    assert waits[:6] == [0, 0, 1, 2, 4, 8] and waits[-1] == web_guard.LONGEST_WAIT
    assert log_in(ask, guard, "let me in", client="10.0.0.2").status == 200
    assert log_in(ask, guard, "let me in").status == 200 and not guard.wrong


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_client_and_all_clients_have_quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(web_files, "time", SimpleNamespace(monotonic=lambda: now[0], monotonic_ns=time.monotonic_ns))
    files = ClientFiles(tmp_path, Limits(client_megabytes=2, total_megabytes=3, kept_minutes=10))
    files.check_quota("a", 2e6)
    with pytest.raises(ValueError, match="your files: got 2 MB, expected at most 2 MB; .* after 10 minutes"):
        files.check_quota("a", 2e6 + 1)
    files.add("a", "result", 1.5e6)
    files.add("a", "result", 1.5e6)  # the same once more
    files.check_quota("a", 0.5e6)
    with files.arriving("a", 0.4e6), pytest.raises(ValueError, match="your files"):
        files.check_quota("a", 0.2e6)
    files.check_quota("a", 0.2e6)
    files.check_quota("b", 2e6)
    now[0] += 601
    files.check_quota("a", 2e6)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(bytes(2_500_000))
    with pytest.raises(ValueError, match="all files: got 4 MB, expected at most 3 MB"):
        files.check_quota("c", 1e6)


def test_uploads_beyond_the_quota_are_refused_before_they_come(ask: Callable[..., Answer], tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(600_000))
    guard = guard_of(tmp_path, client_megabytes=1)
    assert ask(guard, "POST", UPLOAD, bytes(600_000), [tmp_path / "a.bin"]).status == 200
    answer = ask(guard, "POST", UPLOAD, bytes(600_000), [tmp_path / "a.bin"])
    assert refused(answer, 413, "your files: got 1 MB, expected at most 1 MB")
    assert ask(guard, "POST", UPLOAD, bytes(600_000), [], client="10.0.0.2").status == 200


def test_bodies_without_a_length_or_too_large_are_refused(ask: Callable[..., Answer], tmp_path: Path) -> None:
    guard = guard_of(tmp_path)
    for path in (UPLOAD, CALL):
        assert refused(ask(guard, "POST", path, content_length=None), 411, "Content-Length: got none")
    assert refused(ask(guard, "POST", CALL, content_length="1000001"), 413, "Content-Length: got 1000001 bytes")


def test_an_upload_is_answered_when_there_is_a_verdict(
    ask: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Path] = []
    monkeypatch.setattr(web_guard, "SILENCE", 0.05)
    monkeypatch.setattr(ClientFiles, "_decode", lambda self, path: (time.sleep(0.3), judged.append(path)))
    uploaded = [tmp_path / "a.gif", tmp_path / "b.mp4"]
    for path in uploaded:
        path.write_bytes(b"1")
    answer = ask(guard_of(tmp_path), "POST", UPLOAD, b"12", uploaded)
    assert json.loads(answer.text) == [str(path) for path in uploaded] and sorted(judged) == uploaded
    assert answer.text.startswith("  ")  # signs of life


def test_an_upload_is_decoded_once_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, run, commands = ClientFiles(tmp_path, Limits()), subprocess.Popen, []

    def counted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(web_files.subprocess, "Popen", counted)
    (tmp_path / "cut.mp4").write_bytes(SAMPLE.read_bytes()[:2000])
    for _ in range(2):
        assert files.check(SAMPLE) == web_files.check_upload(SAMPLE, Limits())
        with pytest.raises(ValueError, match="cut.mp4: cannot be read as frames") as error:
            files.check(tmp_path / "cut.mp4")
        assert str(tmp_path) not in str(error.value)
    with ThreadPoolExecutor(4) as pool:
        copy = tmp_path / "copy.mp4"
        copy.write_bytes(SAMPLE.read_bytes())
        assert len(set(pool.map(files.check, [copy] * 4))) == 1
    assert len(commands) == 3


def test_an_upload_that_takes_too_long_or_ends_its_decoder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="dance.mp4: takes longer than 0 seconds to decode"):
        ClientFiles(tmp_path, Limits(upload_decoding_seconds=0)).check(SAMPLE)
    monkeypatch.setattr(web_files.sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match=r"dance.mp4: cannot be read \(its decoder ended with 1\)"):
        ClientFiles(tmp_path, Limits()).check(SAMPLE)


def test_a_page_that_closes_ends_its_decoders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexec sleep 60\n", encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(web_files.sys, "executable", str(tmp_path / "python"))
    files = ClientFiles(tmp_path, Limits())
    verdict, began = files.verdict(SAMPLE), time.monotonic()
    while not files._processes:
        time.sleep(0.01)
    files.close()
    assert verdict.exception(30) and time.monotonic() - began < 30


# ---- the folder of a killed page -------------------------------------------------------------------------------------


def test_the_folder_of_a_killed_page_is_removed_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, foreign, elsewhere = tmp_path / "followyourpose-1", tmp_path / "followyourpose-2", tmp_path / "elsewhere"
    for folder in (killed / "files", foreign, elsewhere):
        folder.mkdir(parents=True)
    for folder in (killed, elsewhere):
        (folder / LOCK).touch()
    (tmp_path / "followyourpose-3").symlink_to(elsewhere)
    with web_app._temporary_folder() as one:
        assert not killed.exists() and foreign.exists() and (elsewhere / LOCK).exists()
        with web_app._temporary_folder() as other:
            assert one.exists() and other != one
        assert not other.exists()
    assert not one.exists()


@pytest.mark.kills
def test_a_killed_page_leaves_its_folder_to_the_next(model: Path, tmp_path: Path) -> None:
    code = f"""
import sys, time
from followyourpose.config import GenerateConfig
from followyourpose.web.app import running_page
with running_page(GenerateConfig(model={str(model)!r}, prompt="a cat", device="cpu")) as url:
    print(url, flush=True)
    time.sleep(60 if sys.argv[1] == "kill" else 0)
"""
    for ending in ("kill", "kill", "end"):
        command = [sys.executable, "-c", code, ending]
        with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE) as page:
            assert any(line.startswith(b"http") for line in page.stdout)
            if ending == "kill":
                assert len(list(tmp_path.glob("followyourpose-*"))) == 1
                page.kill()
    assert not list(tmp_path.glob("followyourpose-*"))


# ---- the page behind it ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image model of random weights."""
    return write_image_model(tmp_path_factory.mktemp("guard") / "model")


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a page whose one LoRA is an empty file."""
    lora = tmp_path_factory.mktemp("lora") / "secret-lora.safetensors"
    lora.touch()
    config = GenerateConfig(
        model=str(model), prompt=["a secret prompt"], lora=str(lora), device="cpu", num_frames=2, num_inference_steps=1
    )
    with web_app.running_page(config) as url:
        yield url.rstrip("/")


def test_the_page_shows_nothing_before_the_login(model: Path, tmp_path: Path) -> None:
    lora = tmp_path / "secret-lora.safetensors"
    lora.touch()
    config = GenerateConfig(model=str(model), prompt=["a secret prompt"], lora=str(lora), device="cpu")
    with web_app.running_page(config, password="let me in") as url:
        with urllib.request.urlopen(url) as response:
            text = response.read().decode()
        assert "Password" in text and not any(secret in text for secret in SECRETS)
        with pytest.raises(Exception, match="(?i)login|auth|credential"):  # noqa: B017, the client's own kinds
            gradio_client.Client(url, verbose=False)
        client = gradio_client.Client(url, auth=("artist", "let me in"), verbose=False)
        assert all(secret in json.dumps(client.config) + str(client.endpoints) for secret in SECRETS[:2])


def test_others_are_served_while_an_upload_is_decoded(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding, served = threading.Event(), threading.Event()

    def slowly(files: ClientFiles, upload: Path) -> VideoInfo:
        decoding.set()
        assert served.wait(60)
        return VideoInfo(3, 8.0, 8, 8)

    monkeypatch.setattr(ClientFiles, "_decode", slowly)
    write_video(tmp_path / "slow.mp4", np.zeros((3, 8, 8, 3), np.uint8), 8)
    upload = gradio_client.handle_file(tmp_path / "slow.mp4")
    job = client_of(url).submit(upload=upload, api_name="/generate")
    assert decoding.wait(30)
    assert client_of(url).predict(api_name="/generate")
    assert not job.done()
    served.set()
    assert job.result(60)


def test_errors_of_the_operators_own_files_have_no_folder(url: str) -> None:
    with pytest.raises(Exception, match=r"secret-lora\.safetensors") as error:  # noqa: B017, the client's own kinds
        client_of(url).predict(lora="secret-lora", api_name="/generate")
    assert tempfile.gettempdir() not in str(error.value)


def test_malformed_requests_are_one_line_each(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Random bodies and addresses; the seed is fixed."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("uvicorn.error").addHandler(handler)
    try:
        choice = random.Random(0)
        texts = [send_malformed(url, choice) for _ in range(150)]
        time.sleep(1)  # jobs among them fail in threads
    finally:
        logging.getLogger("uvicorn.error").removeHandler(handler)
    lines = capsys.readouterr().err
    assert not any(record.exc_info for record in records) and "Traceback" not in lines
    assert sum(line.startswith("refused: ") for line in lines.splitlines()) > 20
    assert not any(tempfile.gettempdir() in text or "site-packages" in text for text in texts)


def client_of(url: str) -> Any:
    return gradio_client.Client(url, verbose=False, download_files=False)


def send_malformed(url: str, choice: random.Random) -> str:
    """Send a request that is malformed in a random way, and return the beginning of its answer."""
    names = (
        "call/generate", "call/preview", "call/extract_pose", "call/none", "call/v2/generate", "run/generate",
        "run/preview", "queue/join", "cancel", "reset", "upload", "stream/a",
    )  # fmt: skip
    addresses = (
        "?page=..", "gradio_api/file=/etc/hostname", "gradio_api/file=%00", "gradio_api/call/generate/none",
        "gradio_api/queue/data", "pwa_icon/9", "gradio_api/custom_component/a/b/c/d",
    )  # fmt: skip
    bodies = (
        lambda: choice.randbytes(20),
        lambda: b"[" * choice.choice([10, 100_000]),
        lambda: json.dumps({"data": [value(choice) for _ in range(choice.choice([0, 1, 11, 22]))]}).encode(),
        lambda: json.dumps({"data": value(choice), "fn_index": value(choice), "session_hash": "a"}).encode(),
        lambda: json.dumps({"data": [], "fn_index": choice.randrange(12), "session_hash": "a"}).encode(),
        lambda: json.dumps(value(choice)).encode(),
    )
    kinds = ["application/json"] * 6 + ["multipart/form-data; boundary=B", "text/plain"]
    if choice.random() < 0.2:
        request = urllib.request.Request(f"{url}/{choice.choice(addresses)}")
    else:
        headers = {"Content-Type": choice.choice(kinds)}
        request = urllib.request.Request(f"{url}/gradio_api/{choice.choice(names)}", choice.choice(bodies)(), headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read(2000).decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.read(2000).decode(errors="replace")
    except OSError:  # an answer that is cut short, or that never ends
        return ""


def value(choice: random.Random, depth: int = 0) -> Any:
    """Return a random value of JSON; some look like a control's."""
    if depth < 3 and choice.random() < 0.3:
        inner = [value(choice, depth + 1) for _ in range(choice.randrange(4))]
        return inner if choice.random() < 0.5 else dict(zip(("path", "meta", "url", "data"), inner, strict=False))
    return choice.choice(
        [None, True, -1, 3, 1e308, 10**40, "", "dance", "skeleton", "\ud83d", "../../etc/passwd", "x" * 5000]
    )
