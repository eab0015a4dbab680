"""The page's server by its HTTP API: answers, refusals, and several clients at once. Needs Gradio."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml

from followyourpose.config import GenerateConfig, PoseConfig, load_config, save_config
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pose.keypoints_file import read_keypoints
from followyourpose.web import app
from followyourpose.web.app import running_page
from followyourpose.web.requests import Limits
from tests.tiny import write_image_model

gradio = pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")
gradio_client = pytest.importorskip("gradio_client")

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {"num_frames": 3, "num_inference_steps": 2}


class Server(NamedTuple):
    """A page under test: its address, the folder of its temporary files, and the hosts that its process reached."""

    url: str
    temporary: Path
    reached: set[str]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of the page, of a model of random weights; its videos are 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("server")
    model = write_image_model(folder / "model")
    save_config(
        GenerateConfig(
            model=str(model), prompt=["a cat", "a dog"], device="cpu", pose=PoseConfig(backend="puppet"), **SMALL
        ),
        folder / "demo.yaml",
    )
    return folder / "demo.yaml"


@pytest.fixture(scope="module")
def server(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page, served by threads of this process."""

    def connect(self: socket.socket, address: Any) -> None:
        reached.add(address[0] if isinstance(address, tuple) else address)
        original(self, address)

    reached, original = set(), socket.socket.connect
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(app, "SWEEP_SECONDS", 0.2)
        with running_page(load_config(GenerateConfig, config)) as url:
            yield Server(url, temporary, reached)


@contextmanager
def serving(config: Path, temporary: Path, **environment: str) -> Iterator[tuple[str, int]]:
    """`followyourpose demo` as a process of its own, ended by SIGTERM: its address and number."""
    process = subprocess.Popen(
        [sys.executable, "-m", "followyourpose", "demo", str(config), "--port", str(free_port())],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"} | environment,
    )  # fmt: skip
    with process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if match := re.match(r"(http://\S+)", line):
                break
        else:
            raise AssertionError("".join(lines))
        ThreadPoolExecutor(1).submit(process.stdout.read)  # a full pipe would stop it
        try:
            yield match[1], process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 130


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def client_of(url: str, folder: Path | None = None, **options: Any) -> Any:
    return gradio_client.Client(url, verbose=False, download_files=False if folder is None else folder, **options)


def jobs_of(server: Server) -> list[Path]:
    """Folders of jobs that are under way, or were not removed."""
    return list(server.temporary.glob("followyourpose-*/jobs/*"))


# ---- the HTTP API ----------------------------------------------------------------------------------------------------


def test_the_api_generates_from_an_upload_by_named_parameters(server: Server, tmp_path: Path) -> None:
    client = client_of(server.url, tmp_path / "results")
    *files, command, settings, status = client.predict(
        prompt="a dog", upload=gradio_client.handle_file(SAMPLE), num_frames=4, crop_left=10, seed=5,
        api_name="/generate",
    )  # fmt: skip
    video, pair, over = (probe(file) for file in (files[0], *files[3:5]))
    assert video.num_frames == pair.num_frames == over.num_frames == 4 and pair.width == 2 * video.width
    assert [Path(file).suffix for file in files] == [".mp4", ".gif", ".png", ".mp4", ".mp4", ".yaml"]
    assert command == "followyourpose generate a-dog-5.yaml" and "a dog, seed 5, in " in status
    assert "crop:\n  left: 10\n" in settings and "skeleton: dance.mp4" in settings and "seed: 5" in settings
    assert Path(files[-1]).read_text(encoding="utf-8").strip() == settings
    assert str(server.temporary) not in settings
    assert not jobs_of(server)  # files that are served lie elsewhere


def test_every_parameter_of_the_api_sets_the_key_of_its_name(server: Server, tmp_path: Path) -> None:
    driving = {"temporal_offset": 1, "stride": 2, "num_frames": 3, "skeleton_end": "loop", "fit": "pad"}
    crop = {"left": 5, "right": 6, "top": 7, "bottom": 8}
    drawing = {
        "negative_prompt": "a cat", "num_inference_steps": 4, "guidance_scale": 2.5,
        "pose_scale": 0.7, "scheduler": "euler", "seed": 9,
    }  # fmt: skip
    drawing["prompt"], drawing["transition"] = {0: "a dog", 2: "a cat"}, 1
    given = driving | drawing | {f"crop_{edge}": value for edge, value in crop.items()} | {"long_video_mode": "paper"}
    given |= {"prompt": "0: a dog\n2: a cat", "people": "1: a cat"}
    settings = yaml.safe_load(client_of(server.url).predict(**given, sample="two", api_name="/generate")[7])
    assert (
        settings.pop("skeleton") == "followyourpose/assets/two.json"
        and settings.pop("people") == {1: "a cat"}
        and settings.pop("model")
        and settings.pop("device")
    )
    assert settings.pop("pose") == {"backend": "puppet"}
    assert settings == driving | drawing | {"crop": crop, "long_video": {"mode": "paper"}}


def test_the_api_extracts(server: Server, tmp_path: Path) -> None:
    write_video(tmp_path / "black.mp4", np.zeros((3, 64, 64, 3), np.uint8), 8)
    upload = gradio_client.handle_file(tmp_path / "black.mp4")
    results = client_of(server.url, tmp_path).predict(upload, api_name="/extract_pose")
    overlay, skeleton, again, keypoints, status = results[:5]
    assert [probe(video).num_frames for video in (overlay, skeleton, again)] == [3, 3, 3]
    assert len(read_keypoints(keypoints).frames) == 3 and "found nobody" in status


def test_the_readmes_client_works(server: Server, tmp_path: Path, monkeypatch: Any) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(from gradio_client.*?)```", text, re.DOTALL)
    (tmp_path / "my_dance.mp4").write_bytes(SAMPLE.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", server.url), names)
    assert probe(names["video"]).num_frames == 8


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"prompt": "x" * 10_000}, "prompt: got 10000 characters, expected at most 1000"),
        ({"num_frames": 65}, "65"),
        ({"crop_left": 5000}, "5000"),
        ({"temporal_offset": 200}, "dance.mp4: the clip has .* frames, too short for temporal_offset 200"),
        ({"scheduler": "none"}, "none"),
        ({"lora": "/etc/passwd"}, "passwd"),
        ({"sample": "/etc/passwd"}, "passwd"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_requests_are_refused_with_a_reason(server: Server, arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(Exception, match=reason):  # noqa: B017, the client's own kinds
        client_of(server.url).predict(**arguments, api_name="/generate")


def test_a_corrupt_upload_is_refused_by_its_name(server: Server, tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 8)
    upload = gradio_client.handle_file(tmp_path / "holiday.mp4")
    with pytest.raises(Exception, match="holiday.mp4: cannot be read as frames") as error:
        client_of(server.url).predict(upload=upload, api_name="/generate")
    assert str(server.temporary) not in str(error.value)


# ---- safe by default -------------------------------------------------------------------------------------------------


def answer(url: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


@pytest.mark.parametrize("path", ["/etc/hostname", "{repository}/README.md", "../../../../etc/hostname"])
def test_no_file_of_the_machine_is_served(server: Server, path: str) -> None:
    status, text = answer(f"{server.url.rstrip('/')}/gradio_api/file={path.format(repository=REPOSITORY)}")
    assert status in (403, 404) and "Follow Your Pose" not in text


@pytest.mark.parametrize("path", [str(SAMPLE), "/etc/hostname", "../../assets/dance.mp4"])
def test_no_path_that_a_client_names_is_opened(server: Server, path: str) -> None:
    assert "event: error" in extract(server.url, path)


def test_no_address_that_a_client_names_is_fetched(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch(url: str, **_: Any) -> str:
        fetched.append(url)
        return str(tmp_path / "fetched.mp4")

    fetched: list[str] = []
    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", fetch)
    assert "event: error" in extract(server.url, "https://example.com/dance.mp4")
    assert "event: error" in extract(server.url, "HTTP://example.com/dance.mp4")
    file = {"path": "https://example.com/dance.mp4", "meta": {"_type": "gradio.FileData"}}
    assert "event: error" in call(server.url, "generate", [file, *[None] * 23])  # a control that is no file's
    assert not fetched


def extract(url: str, path: str) -> str:
    """Return the server's answer to a job whose upload is a path or an address."""
    return call(url, "extract_pose", [{"path": path, "meta": {"_type": "gradio.FileData"}}])


def call(url: str, name: str, data: list[Any]) -> str:
    """Return the server's answer to a call with these values, one for each parameter."""
    return answer(f"{url.rstrip('/')}/gradio_api/call/{name}/{start(url, name, data)}")[1]


def start(url: str, name: str, data: list[Any]) -> str:
    """Begin a call with these values, one for each parameter, and return its number."""
    return json.loads(answer(f"{url.rstrip('/')}/gradio_api/call/{name}", {"data": data})[1])["event_id"]


def test_an_upload_beyond_the_limit_is_refused_while_it_comes(server: Server, tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(51 * 10**6))
    with pytest.raises(Exception, match="(?i)413|exceed|large|size"):  # noqa: B017
        client_of(server.url).predict(gradio_client.handle_file(tmp_path / "large.mp4"), api_name="/extract_pose")


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    port = f"{int(server.url.rstrip('/').rpartition(':')[2]):04X}"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="utf-8").splitlines()[1:]]
    assert {line[1] for line in listening if line[1].endswith(f":{port}") and line[3] == "0A"} == {f"0100007F:{port}"}


def test_uploads_and_results_are_removed_after_their_time(server: Server) -> None:
    upload = gradio_client.handle_file(SAMPLE)
    client_of(server.url).predict(**SMALL, upload=upload, api_name="/generate")
    time.sleep(2 * app.SWEEP_SECONDS)
    files = [path for path in server.temporary.glob("followyourpose-*/files/**/*") if path.is_file()]
    assert {".mp4", ".gif", ".yaml"} <= {path.suffix for path in files}
    for path in files:
        os.utime(path, (time.time() - 60 * Limits().kept_minutes - 1,) * 2)
    wait_until(lambda: not any(path.exists() for path in files), "files stay")


@pytest.mark.slow
def test_the_command_requires_the_password_and_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    """Ended by SIGTERM in the middle of a job."""
    with serving(config, tmp_path, FOLLOWYOURPOSE_PASSWORD="let me in") as (url, _):
        assert answer(f"{url.rstrip('/')}/config")[0] == 401
        with pytest.raises(Exception, match="(?i)login|auth|credential"):  # noqa: B017
            client_of(url, auth=("artist", "something else"))
        client = client_of(url, auth=("artist", "let me in"))
        client.predict(**SMALL, api_name="/generate")
        assert list(tmp_path.glob("followyourpose-*/files/*"))
        job = client.submit(num_inference_steps=100, api_name="/generate")
        wait_until(lambda: len(job.outputs()) > 2, "no step is reported")
    assert not list(tmp_path.glob("followyourpose-*"))


# ---- several clients -------------------------------------------------------------------------------------------------

NAMES = ("cat", "dog")
CLIENT = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
job = client.submit(num_frames=3, num_inference_steps=100, api_name="/generate")
for output in job:
    print(output[8], flush=True)
"""


def test_clients_at_once_get_their_own_results_though_one_is_gone(server: Server, tmp_path: Path) -> None:
    """Two clients with two jobs each, and one more whose connection breaks while its job is denoised."""
    wanted = expected(server, tmp_path)
    api = client_of(server.url).view_api(return_format="dict", print_info=False)
    endpoint = api["named_endpoints"]["/generate"]
    values = {each["parameter_name"]: each["parameter_default"] for each in endpoint["parameters"]}
    event = start(server.url, "generate", list((values | {"num_inference_steps": 100}).values()))
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.connect()
    ours = connection.sock
    connection.request("GET", f"/gradio_api/call/generate/{event}")
    response = connection.getresponse()
    assert any(b"Step" in line for line in iter(response.readline, b""))
    _clients_at_once(server, wanted, tmp_path, lambda: ours.shutdown(socket.SHUT_RDWR))


@pytest.mark.kills
def test_clients_at_once_get_their_own_results_though_one_is_killed(config: Path, tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with serving(config, tmp_path / "server") as (url, pid):
        server = Server(url, tmp_path / "server", set())
        client_of(url).predict(**SMALL, api_name="/generate")
        before = memory(pid)
        wanted = expected(server, tmp_path)
        killed = subprocess.Popen([sys.executable, "-c", CLIENT, url], stdout=subprocess.PIPE, text=True)
        next(line for line in killed.stdout if "Step" in line)
        _clients_at_once(server, wanted, tmp_path, killed.kill)
        assert memory(pid) < 1.05 * before


def expected(server: Server, folder: Path) -> dict[tuple[str, int], np.ndarray]:
    """Results of a single client: prompt and seed -> frames (f, H, W, 3)."""
    client = client_of(server.url, folder / "alone")
    wanted = {(name, seed): _generated(client, name, seed) for name in NAMES for seed in (0, 1)}
    assert len({video.tobytes() for video in wanted.values()}) == len(wanted)
    return wanted


def _generated(client: Any, name: str, seed: int) -> np.ndarray:
    return read_frames(client.predict(prompt=f"a {name}", seed=seed, **SMALL, api_name="/generate")[0])


def _clients_at_once(
    server: Server, wanted: dict[tuple[str, int], np.ndarray], folder: Path, end: Callable[[], None]
) -> None:
    """Compare the results of clients at once, one of whom is ended by `end`, to those of one alone."""

    def two(name: str) -> list[np.ndarray]:
        client = client_of(server.url, folder / name)
        return [_generated(client, name, seed) for seed in (0, 1)]

    with ThreadPoolExecutor(len(NAMES)) as pool:
        futures = {name: pool.submit(two, name) for name in NAMES}
        time.sleep(0.3)
        end()
        for name, future in futures.items():
            for seed, video in enumerate(future.result()):
                np.testing.assert_array_equal(video, wanted[name, seed])
    wait_until(lambda: not jobs_of(server), "the job of the client that is gone still runs")


def test_a_client_cancels_its_job(server: Server) -> None:
    job = client_of(server.url).submit(num_frames=3, num_inference_steps=100, api_name="/generate")
    wait_until(lambda: len(job.outputs()) > 2, "no step is reported")
    job.cancel()
    wait_until(lambda: not jobs_of(server), "it still runs")
    assert len(job.outputs()) < 60


def test_the_queue_is_bounded(config: Path) -> None:
    with running_page(load_config(GenerateConfig, config), replace(Limits(), waiting=1)) as url:
        jobs = [client_of(url).submit(num_inference_steps=100, api_name="/generate") for _ in range(4)]
        refused: list[Any] = []
        wait_until(lambda: refused.extend(job for job in jobs if job.done()) or bool(refused), "all are taken", 60)
        assert 1 <= len(refused) <= 3 and all("full" in str(job.exception()).lower() for job in refused)
        for job in jobs:
            job.cancel()


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)


def test_the_server_reaches_no_other(server: Server) -> None:
    """The last of these tests: of all connections that the others made the server open."""
    client_of(server.url).predict(**SMALL, api_name="/generate")
    assert server.reached == {"127.0.0.1"}
