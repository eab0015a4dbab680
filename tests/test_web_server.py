"""The page's server, by its HTTP API: what it serves and refuses, and several clients at once. Needs Gradio."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from followyourpose.config import GenerateConfig, load_config, save_config
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.generation.skeletons import SAMPLE
from tests.tiny import write_image_model

gradio = pytest.importorskip("gradio", reason="the page needs Gradio: pip install -e '.[demo]'")
gradio_client = pytest.importorskip("gradio_client")

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {"num_frames": 3, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of the page, of a model of random weights; its videos are 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("server")
    model = write_image_model(folder / "model")
    save_config(
        GenerateConfig(model=str(model), prompt=["a cat", "a dog"], device="cpu", **SMALL), folder / "demo.yaml"
    )
    return folder / "demo.yaml"


@pytest.fixture(scope="module")
def server(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int, Path]]:
    """The command, serving: address, process and the folder for temporary files."""
    with serving(config, tmp_path_factory.mktemp("temporary")) as running:
        yield running


class serving:  # noqa: N801, a context manager that reads as a statement
    """`followyourpose demo` as a process of its own."""

    def __init__(self, config: Path, temporary: Path, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-m", "followyourpose", "demo", str(config), "--port", str(free_port()), *arguments]
        self.temporary = temporary
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"} | environment,
        )  # fmt: skip

    def __enter__(self) -> tuple[str, int, Path]:
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if match := re.match(r"(http://\S+)", line):
                ThreadPoolExecutor(1).submit(self.process.stdout.read)  # so that it never has to wait to write
                return match[1], self.process.pid, self.temporary
        raise AssertionError("".join(lines))

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 130


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def client_of(url: str, folder: Path | None = None, **options: Any) -> Any:
    return gradio_client.Client(url, verbose=False, download_files=False if folder is None else folder, **options)


# ---- the HTTP API ----------------------------------------------------------------------------------------------------


def test_the_api_generates_from_an_upload_by_named_parameters(server: tuple[str, int, Path], tmp_path: Path) -> None:
    url, _, temporary = server
    client = client_of(url, tmp_path / "results")
    video, pair, files, command, settings, status, _, seed = client.predict(
        prompt="a dog", upload=gradio_client.handle_file(SAMPLE), num_frames=4, crop_left=10, seed=5,
        api_name="/generate",
    )  # fmt: skip
    assert probe(video).num_frames == probe(pair).num_frames == 4 and probe(pair).width == 2 * probe(video).width
    assert [Path(file).suffix for file in files] == [".mp4", ".gif", ".png", ".mp4", ".yaml"]
    assert command == "followyourpose generate a-dog-5.yaml" and seed == 5 and "Done" in status
    assert "crop:\n  left: 10\n" in settings and "skeleton: dance.mp4" in settings and "seed: 5" in settings
    assert Path(files[-1]).read_text().strip() == settings
    assert str(temporary) not in settings
    assert not list(temporary.glob("followyourpose-*/jobs/*"))  # what is served is elsewhere


def test_every_parameter_of_the_api_sets_the_key_of_its_name(server: tuple[str, int, Path], tmp_path: Path) -> None:
    driving = {"temporal_offset": 1, "stride": 2, "num_frames": 3, "skeleton_end": "loop"}
    crop = {"left": 5, "right": 6, "top": 7, "bottom": 8}
    drawing = {
        "prompt": "a dog", "negative_prompt": "a cat", "num_inference_steps": 4, "guidance_scale": 2.5,
        "pose_scale": 0.7, "scheduler": "euler", "seed": 9,
    }  # fmt: skip
    given = driving | drawing | {f"crop_{edge}": value for edge, value in crop.items()} | {"long_video_mode": "paper"}
    settings = yaml.safe_load(client_of(server[0]).predict(**given, sample="left", api_name="/generate")[4])
    assert Path(settings.pop("skeleton")).name == "left.json" and settings.pop("model") and settings.pop("device")
    assert settings == driving | drawing | {"crop": crop, "long_video": {"mode": "paper"}}


def test_the_api_previews_and_extracts(server: tuple[str, int, Path], tmp_path: Path) -> None:
    client = client_of(server[0], tmp_path)
    picture, numbers = client.predict(temporal_offset=2, stride=3, num_frames=2, api_name="/preview")
    assert Path(picture).exists() and numbers == "2 frames of the driving video: 2, 5"
    write_video(tmp_path / "black.mp4", np.zeros((3, 64, 64, 3), np.uint8), 8)
    upload = gradio_client.handle_file(tmp_path / "black.mp4")
    skeleton, overlay, files = client.predict(upload, api_name="/extract_pose")
    assert probe(skeleton).num_frames == probe(overlay).num_frames == 3 and len(files) == 3


def test_the_readmes_client_works(server: tuple[str, int, Path], tmp_path: Path, monkeypatch: Any) -> None:
    text = (REPOSITORY / "README.md").read_text()
    (code,) = re.findall(r"```python\n(from gradio_client.*?)```", text, re.DOTALL)
    (tmp_path / "my_dance.mp4").write_bytes(SAMPLE.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", server[0]), names)
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
def test_what_cannot_be_is_refused_with_a_reason(
    server: tuple[str, int, Path], arguments: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Exception, match=reason):  # noqa: B017, of whatever kind the client makes of it
        client_of(server[0]).predict(**arguments, api_name="/generate")


def test_a_corrupt_upload_is_refused_by_its_name(server: tuple[str, int, Path], tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(range(256)) * 8)
    upload = gradio_client.handle_file(tmp_path / "holiday.mp4")
    with pytest.raises(Exception, match="holiday.mp4: cannot be read as frames") as error:
        client_of(server[0]).predict(upload=upload, api_name="/generate")
    assert str(server[2]) not in str(error.value)


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
def test_no_file_of_the_machine_is_served(server: tuple[str, int, Path], path: str) -> None:
    status, text = answer(f"{server[0].rstrip('/')}/gradio_api/file={path.format(repository=REPOSITORY)}")
    assert status in (403, 404) and "Follow Your Pose" not in text


@pytest.mark.parametrize("path", [str(SAMPLE), "/etc/hostname", "../../assets/dance.mp4"])
def test_no_path_that_a_client_names_is_opened(server: tuple[str, int, Path], path: str) -> None:
    assert "event: error" in extract(server[0], path)


def test_no_address_that_a_client_names_is_fetched(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from followyourpose.web.app import running_page

    async def fetch(url: str, **_: Any) -> str:
        fetched.append(url)
        return str(tmp_path / "fetched.mp4")

    fetched: list[str] = []
    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", fetch)
    with running_page(load_config(GenerateConfig, config)) as url:
        assert "event: error" in extract(url, "https://example.com/dance.mp4")
        assert "event: error" in extract(url, "HTTP://example.com/dance.mp4")
        file = {"path": "https://example.com/dance.mp4", "meta": {"_type": "gradio.FileData"}}
        assert "event: error" in call(url, "preview", [file, *[None] * 10])  # a control that is no file's
    assert not fetched


def extract(url: str, path: str) -> str:
    """What the server tells of a job whose upload is a path or an address."""
    return call(url, "extract_pose", [{"path": path, "meta": {"_type": "gradio.FileData"}}])


def call(url: str, name: str, data: list[Any]) -> str:
    """What the server tells of a call with these values, one for each parameter."""
    address = f"{url.rstrip('/')}/gradio_api/call/{name}"
    event = json.loads(answer(address, {"data": data})[1])
    return answer(f"{address}/{event['event_id']}")[1]


def test_an_upload_beyond_the_limit_is_refused_while_it_comes(server: tuple[str, int, Path], tmp_path: Path) -> None:
    (tmp_path / "large.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(51 * 10**6))
    with pytest.raises(Exception, match="(?i)413|exceed|large|size"):  # noqa: B017
        client_of(server[0]).predict(gradio_client.handle_file(tmp_path / "large.mp4"), api_name="/extract_pose")


def test_it_listens_on_this_machine_alone(server: tuple[str, int, Path]) -> None:
    assert server[0].startswith("http://127.0.0.1:")
    port = f"{int(server[0].rstrip('/').rpartition(':')[2]):04X}"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert {line[1] for line in listening if line[1].endswith(f":{port}") and line[3] == "0A"} == {f"0100007F:{port}"}


def test_the_server_asks_nothing_of_any_other(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from followyourpose.web.app import running_page

    def connect(self: socket.socket, address: Any) -> None:
        reached.add(address[0] if isinstance(address, tuple) else address)
        original(self, address)

    reached, original = set(), socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", connect)
    with running_page(load_config(GenerateConfig, config)) as url:
        client_of(url).predict(**SMALL, api_name="/generate")
        time.sleep(2)  # analytics would be sent by a thread
    assert reached == {"127.0.0.1"}


def test_an_end_in_the_middle_of_a_job_leaves_nothing_behind(config: Path, tmp_path: Path) -> None:
    with serving(config, tmp_path) as (url, _, _):
        job = client_of(url).submit(num_inference_steps=100, api_name="/generate")
        wait_until(lambda: len(job.outputs()) > 2, "no step is reported")
    assert not list(tmp_path.glob("followyourpose-*"))


def test_what_is_uploaded_and_made_is_removed_after_its_time(config: Path) -> None:
    from followyourpose.web.app import running_page
    from followyourpose.web.requests import Limits

    with running_page(load_config(GenerateConfig, config), Limits(kept_minutes=0.1)) as url:
        upload = gradio_client.handle_file(SAMPLE)
        video = client_of(url).predict(**SMALL, upload=upload, api_name="/generate")[0]
        files = Path(video["path"]).parents[1]
        assert [path for path in files.rglob("*") if path.is_file()]
        wait_until(lambda: not [path for path in files.rglob("*") if path.is_file()], "files stay")


def test_a_password_is_asked_for_and_nothing_stays_behind(config: Path, tmp_path: Path) -> None:
    with serving(config, tmp_path, FOLLOWYOURPOSE_PASSWORD="let me in") as (url, _, _):
        assert answer(f"{url.rstrip('/')}/config")[0] == 401
        with pytest.raises(Exception, match="(?i)login|auth|credential"):  # noqa: B017
            client_of(url, auth=("artist", "something else"))
        client_of(url, auth=("artist", "let me in")).predict(**SMALL, api_name="/generate")
        assert list(tmp_path.glob("followyourpose-*/files/*"))
    assert not list(tmp_path.glob("followyourpose-*"))  # it was ended by SIGTERM


# ---- several clients -------------------------------------------------------------------------------------------------

CLIENT = """
import sys
from gradio_client import Client
client = Client(sys.argv[1], verbose=False)
job = client.submit(num_frames=3, num_inference_steps=100, api_name="/generate")
for output in job:
    print(output[5], flush=True)
"""


def test_clients_at_once_get_their_own_results_though_one_is_killed(config: Path, tmp_path: Path) -> None:
    """Four clients with three jobs each, and one more that is killed while its job is denoised."""
    (tmp_path / "server").mkdir()
    with serving(config, tmp_path / "server") as (url, pid, temporary):
        _clients_at_once(url, pid, temporary, tmp_path)


def _clients_at_once(url: str, pid: int, temporary: Path, tmp_path: Path) -> None:
    def job(client: Any, prompt: str, seed: int) -> np.ndarray:
        return read_frames(client.predict(prompt=prompt, seed=seed, **SMALL, api_name="/generate")[0])

    alone = client_of(url, tmp_path / "alone")
    job(alone, "a cat", 0)
    before = memory(pid)
    wanted = {
        (name, seed): job(alone, f"a {name}", seed) for name in ("cat", "dog", "can", "god") for seed in (0, 1, 2)
    }
    assert len({video.tobytes() for video in wanted.values()}) == 12

    killed = subprocess.Popen([sys.executable, "-c", CLIENT, url], stdout=subprocess.PIPE, text=True)
    next(line for line in killed.stdout if "Step" in line)

    def three(name: str) -> list[np.ndarray]:
        client = client_of(url, tmp_path / name)
        return [job(client, f"a {name}", seed) for seed in (0, 1, 2)]

    with ThreadPoolExecutor(4) as pool:
        futures = {name: pool.submit(three, name) for name in ("cat", "dog", "can", "god")}
        time.sleep(0.3)
        killed.kill()
        for name, future in futures.items():
            for seed, video in enumerate(future.result()):
                np.testing.assert_array_equal(video, wanted[name, seed])
    wait_until(lambda: not list(temporary.glob("followyourpose-*/jobs/*")), "the killed client's job still runs")
    assert memory(pid) < 1.05 * before


def test_a_client_cancels_its_job(server: tuple[str, int, Path]) -> None:
    url, _, temporary = server
    job = client_of(url).submit(num_frames=3, num_inference_steps=100, api_name="/generate")
    wait_until(lambda: len(job.outputs()) > 2, "no step is reported")
    job.cancel()
    wait_until(lambda: not list(temporary.glob("followyourpose-*/jobs/*")), "it still runs")
    assert len(job.outputs()) < 60


def test_the_queue_is_bounded(config: Path, tmp_path: Path) -> None:
    from followyourpose.web.app import running_page
    from followyourpose.web.requests import Limits

    with running_page(load_config(GenerateConfig, config), replace(Limits(), waiting=1)) as url:
        jobs = [client_of(url).submit(num_inference_steps=60, api_name="/generate") for _ in range(4)]
        refused = [job for job in jobs if isinstance(job.exception(60), Exception)]
        assert 1 <= len(refused) <= 3 and all("full" in str(job.exception()).lower() for job in refused)


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
