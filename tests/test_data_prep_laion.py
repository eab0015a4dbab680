"""LAION-Pose: every runner, killed or not, gives the same images, once each."""

import io
import json
import multiprocessing
import os
import platform
import random
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from codecs import BOM_UTF8
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from data_prep import scale
from data_prep.command import start
from data_prep.laion_pose import Annotation, annotate, main
from data_prep.scale import slurm_part
from data_prep.selection import Selection
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.labels import Rules
from followyourpose.data.prepared import add_up, stats_files
from followyourpose.pose.skeleton import body_height
from followyourpose.training.loop import train
from tests.downloads import (
    REPOSITORY,
    FailingJob,
    FixedAnnotation,
    jpeg,
    run_script,
    sample,
    write_downloads,
    write_tar,
)
from tests.runs import STAGE1, contents, log_of, settings

IMAGES = int(os.environ.get("FOLLOWYOURPOSE_PREP_IMAGES", 200))  # for the whole proof 2000
KILLS = 6
SHARDS = 20
EVERYTHING = Rules(min_keypoints=0)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """img2dataset's folder of puppets, and the true people (p, 17, 3) of each image."""
    folder = tmp_path_factory.mktemp("downloads")
    return folder, write_downloads(folder, IMAGES, IMAGES // SHARDS)


@pytest.fixture(scope="module")
def annotated(downloads: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotated shards, made one after the other in this process, in one thread as workers have."""
    job, threads = Annotation(tmp_path_factory.mktemp("annotated") / "laion-pose", "puppet"), torch.get_num_threads()
    torch.set_num_threads(1)
    annotate_all(job, downloads[0])
    torch.set_num_threads(threads)
    return job.out


@pytest.fixture
def serial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the local runner do the units in this process."""
    monkeypatch.setattr(scale, "_by_processes", lambda job, units, workers: (scale._do(job, unit) for unit in units))


def annotate_all(job: Annotation, source: Path) -> None:
    work = job.open()
    for shard in sorted(source.glob("*.tar")):
        work(shard)


def person(joints: int = 17, size: float = 30.0) -> np.ndarray:
    """Person (17, 3) in a box of `size` pixels with `joints` seen joints."""
    xy = np.random.default_rng(0).uniform(0, size, (17, 2))
    xy[:2] = [[0, 0], [size, size]]
    return np.concatenate([xy, (np.arange(17) < joints)[:, None]], axis=1)


def picture(shade: int = 100, height: int = 64, width: int = 64) -> bytes:
    return jpeg(np.full((height, width, 3), shade, np.uint8))


def seeing(*people: np.ndarray):
    """Estimator that finds these people in every frame."""
    return lambda frames: [list(people) for _ in frames]


def stats_of(shard: Path, out: Path) -> dict:
    return json.loads((out / f"{shard.stem}_stats.json").read_text())


# ---- output ----------------------------------------------------------------------------------------------------------


def test_training_reads_the_kept_images_and_their_keypoints_are_those_of_the_people(
    downloads: tuple[Path, dict], annotated: Path
) -> None:
    source, truth = ImagePoseShards(annotated), downloads[1]
    total = add_up(stats_files(annotated))
    assert total["read"] == IMAGES and total["kept"] == len(source) == IMAGES - sum(total["dropped"].values())
    assert len(source) > 0.8 * IMAGES and total["dropped"]["without people"] >= IMAGES // 10
    assert total["download"]["count"] == IMAGES + 5 * SHARDS and source.dropped == {}
    errors = []
    for index in range(len(source)):
        true = truth[source.name(index).rsplit(": ", 1)[1]]
        assert len(true) == 1
        found = source.label(index, [0])[1][0]
        seen = true[0, :, 2] > 0
        errors += (np.linalg.norm((found - true[0])[seen, :2], axis=-1) / body_height(true[0])).tolist()
    assert np.mean(np.array(errors) < 0.1) > 0.9


def test_the_index_lists_every_image_once_with_its_status(downloads: tuple[Path, dict], annotated: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [row for file in sorted(annotated.glob("*.parquet")) for row in parquet.read_table(file).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(downloads[1])
    source = ImagePoseShards(annotated)
    names = {source.name(index).rsplit(": ", 1)[1] for index in range(len(source))}
    assert {row["key"] for row in rows if row["status"] == "kept"} == names
    assert all(
        row["url"].endswith(f"{row['key']}.jpg") and row["joints_seen"] > 8 for row in rows if row["key"] in names
    )


def test_stage_1_trains_on_the_output(world: Path, annotated: Path, tmp_path: Path) -> None:
    run = train(settings(world, tmp_path / "run", STAGE1, f"data.path={annotated}"))
    assert len(log_of(run)) == 2 and (run / "weights.safetensors").is_file()


def test_the_metadata_of_img2dataset_stay_with_an_image(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    label = json.loads(ImagePoseShards(tmp_path / "out")._part(0, "json"))
    assert label["url"] == "https://example.org/0.jpg" and (label["width"], label["height"]) == (64, 64)


@pytest.mark.parametrize(
    ("people", "reason"),
    [
        ([person()], None),
        ([person(9)], None),
        ([], "without people"),
        ([person(0)], "without people"),
        ([person(8)], "without a person that is seen well enough"),
        ([person(8), person(9)], None),
        ([person()] * 4, "with too many people"),
        ([person(size=5)], "with people too small"),
        ([person(size=63)], "with people too large"),
    ],
)
def test_images_are_chosen_by_the_people_in_them(people: Sequence[np.ndarray], reason: str | None) -> None:
    rules = Selection(people=(1, 3), area=(0.05, 0.9))
    assert rules.against("a caption", np.array(people).reshape(-1, 17, 3), (64, 64)) == reason


def test_an_image_of_any_size_has_its_keypoints_in_its_own_pixels(tmp_path: Path) -> None:
    sizes = [(64, 64), (48, 64), (64, 64), (96, 32)]
    images = {str(i): sample(str(i), picture(10 * i, *size)) for i, size in enumerate(sizes)}
    shapes = []

    def middle(frames: np.ndarray) -> list[list[np.ndarray]]:
        shapes.append(frames.shape)
        centre = np.tile([frames.shape[2] / 2, frames.shape[1] / 2, 1.0], (17, 1))
        return [[centre] for _ in frames]

    job = Annotation(tmp_path / "out", "middle", Selection(area=(0, 1)))
    annotate(write_tar(tmp_path / "in" / "0.tar", images), job, middle)
    assert shapes == [(2, 64, 64, 3), (1, 48, 64, 3), (1, 96, 32, 3)]
    source = ImagePoseShards(tmp_path / "out")
    for index, (height, width) in enumerate(sizes):
        assert source.label(index, [0])[1][0, 0].tolist() == [width / 2, height / 2, 1]


# ---- runners, kills and repetition -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["local", "ray"])
def test_every_runner_writes_the_same_bytes(
    downloads: tuple[Path, dict], annotated: Path, tmp_path: Path, runner: str
) -> None:
    if runner == "ray" and not find_spec("ray"):
        pytest.skip('Ray is not installed: pip install -e ".[ray]"')
    arguments = (downloads[0], tmp_path / "out", "--backend", "puppet", "--runner", runner, "--workers", "2")
    run_script("laion_pose", *arguments)
    assert contents(tmp_path / "out") == contents(annotated)


@pytest.mark.usefixtures("serial")
def test_the_tasks_of_an_array_do_all_shards_once(
    downloads: tuple[Path, dict],
    annotated: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "4")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    for task in ("5", "4"):  # in any order
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        main([str(downloads[0]), str(tmp_path / "out"), "--backend", "puppet", "--runner", "slurm"])
        assert f"{SHARDS} units, {SHARDS // 2} of them here, 0 done before" in capsys.readouterr().out
    assert contents(tmp_path / "out") == contents(annotated)


def sessions_processes(session: int) -> list[int]:
    """Living processes of a session."""
    alive = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(of) == session and state != "Z":
            alive.append(int(stat.parent.name))
    return alive


def kill_at_random(command: list[str], out: Path, latest: float, moment: random.Random) -> None:
    """Start a command and kill it at most `latest` seconds after it has begun a shard; its workers must end too."""
    before = set(out.iterdir()) if out.exists() else set()
    run = subprocess.Popen(
        command, cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not out.exists() or set(out.iterdir()) <= before:
        assert run.poll() is None, "it ended by itself"
        time.sleep(0.005)
    time.sleep(moment.uniform(0, latest))
    os.kill(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, "it ended by itself"
    deadline = time.monotonic() + 20
    while sessions_processes(run.pid):
        assert time.monotonic() < deadline, "workers live on"
        time.sleep(0.05)


@pytest.mark.kills
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left-over processes in /proc")
def test_kills_lose_nothing_double_nothing_and_leave_no_process(downloads: tuple[Path, dict], tmp_path: Path) -> None:
    """With an estimator that finds the same person everywhere; killed runs take a tenth of a second for a shard."""
    expected, out, moment = FixedAnnotation(tmp_path / "expected", "fixed"), tmp_path / "out", random.Random(0)
    annotate_all(expected, downloads[0])
    command = [sys.executable, "-m", "tests.downloads", str(downloads[0]), str(out)]
    for _ in range(KILLS):
        kill_at_random([*command, "0.05"], out, 0.1, moment)
    for done in (0, SHARDS):
        run = subprocess.run([*command, "0"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert f"{SHARDS} units, {SHARDS} of them here" in run.stdout
        assert not done or f"{done} done before" in run.stdout
        assert contents(out) == contents(expected.out)
    assert not list(out.glob(".*"))


@pytest.mark.kills
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for left-over processes in /proc")
def test_kills_of_the_command_lose_nothing(downloads: tuple[Path, dict], annotated: Path, tmp_path: Path) -> None:
    out, moment = tmp_path / "out", random.Random(0)
    arguments = [str(downloads[0]), str(out), "--backend", "puppet", "--workers", "2"]
    for _ in range(3):
        kill_at_random([sys.executable, "-m", "data_prep.laion_pose", *arguments], out, IMAGES * 1e-4, moment)
    assert f"{SHARDS} units" in run_script("laion_pose", *arguments).stdout
    assert contents(out) == contents(annotated)
    again = run_script("laion_pose", *arguments)
    assert f"{SHARDS} done before" in again.stdout and contents(out) == contents(annotated)


def test_the_workers_have_ended_when_the_error_of_one_is_raised() -> None:
    tqdm([], disable=True)  # the first bar of a process starts a thread that watches all
    threads = threading.enumerate()
    with pytest.raises(ValueError, match="no unit"):
        scale.run(FailingJob(), [1, 2, 3], workers=2)
    assert multiprocessing.active_children() == [] and threading.enumerate() == threads


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("units", [0, 1, 5, 12])
def test_an_arrays_parts_are_disjoint_and_complete(units: int, count: int) -> None:
    variables = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": str(count)}
    parts = [slurm_part(range(units), variables | {"SLURM_ARRAY_TASK_ID": str(task)}) for task in range(1, count + 1)]
    assert [unit for part in parts for unit in part] == list(range(units))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_run_outside_of_an_array_and_an_array_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match="SLURM_ARRAY_TASK_ID.*sbatch --array"):
        slurm_part(range(3), {})
    with pytest.raises(ValueError, match="without gaps"):
        slurm_part(range(3), {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"})


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_unusable_samples_are_counted_by_their_reason(tmp_path: Path) -> None:
    good, others = sample("0", picture()), {}
    for index, (part, content) in enumerate(
        (("jpg", b"no image"), ("jpg", None), ("txt", None), ("txt", b"\xff"), ("json", b"{"), ("txt", b" "))
    ):
        files = dict(good)
        if content is None:
            del files[part]
        else:
            files[part] = content
        others[f"1{index}"] = files
    shard = write_tar(tmp_path / "in" / "00000.tar", {"00": good, **others})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    stats = stats_of(shard, tmp_path / "out")
    assert (stats["read"], stats["kept"], stats["shards cut off or no tar"]) == (7, 1, 0)
    assert stats["dropped"] == {
        "that cannot be decoded": 1, "with too short a caption": 1, "without a readable caption and metadata": 2,
        "without image": 1, "without txt": 1,
    }  # fmt: skip
    assert len(ImagePoseShards(tmp_path / "out", rules=EVERYTHING)) == 1


@pytest.mark.parametrize(
    "about",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"0" + b"}" * 100_000,
        b"9" * 5000,
        b"3",
        b'{"url": "https://example.org/\\ud83d.jpg"}',
        b"\xff\xfe\x00",
    ],
)
def test_metadata_that_cannot_be_read_are_one_bad_sample(tmp_path: Path, about: bytes) -> None:
    files = sample("0", picture())
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": files | {"json": about}, "1": files})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    stats = stats_of(shard, tmp_path / "out")
    assert stats["kept"] == 1 and stats["dropped"] == {"without a readable caption and metadata": 1}


def test_numbers_without_bounds_in_the_metadata_do_no_harm(tmp_path: Path) -> None:
    about = b'{"width": Infinity, "height": 1%s, "people": NaN, "similarity": NaN}' % (b"0" * 400)
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture()) | {"json": about}})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    assert ImagePoseShards(tmp_path / "out").label(0, [0])[1].shape == (1, 17, 3)


def test_names_that_leave_the_folder_of_the_tar_are_counted_and_do_not_travel_on(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    unsafe = ["../../x", "/etc/x", "a/../../x", "a//x", "a\\x", "new\nline", "caf\udce9"]
    shard = write_tar(tmp_path / "in" / "00000.tar", {key: sample("0", picture()) for key in [*unsafe, "a/x y", "./1"]})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    assert stats_of(shard, tmp_path / "out")["dropped"] == {"with an unsafe name": len(unsafe)}
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert {name.rpartition(".")[0] for name in tar.getnames()} == {"a/x y", "./1"}
    rows = parquet.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert len(rows) == len(unsafe) + 2 and "caf\\udce9" in {row["key"] for row in rows}


def test_keys_that_come_again_and_keys_with_dots_are_counted_and_listed(tmp_path: Path) -> None:
    """No image gets another's caption."""
    parquet = pytest.importorskip("pyarrow.parquet")
    samples = {key: sample(key, picture(shade), f"caption {key}") for key, shade in (("a", 10), ("b", 90), ("c.d", 30))}
    shard = write_tar(tmp_path / "in" / "00000.tar", samples)
    second = write_tar(tmp_path / "in" / "more", {"a": sample("a", picture(200), "another caption")})
    content = shard.read_bytes().rstrip(b"\0")
    shard.write_bytes(content + bytes(-len(content) % 512) + second.read_bytes())
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    stats, source = stats_of(shard, tmp_path / "out"), ImagePoseShards(tmp_path / "out")
    assert (stats["read"], stats["kept"]) == (4, 1) and sum(stats["dropped"].values()) == 3
    assert source.label(0, [0])[0] == "caption b" and len(source) == 1
    rows = parquet.read_table(tmp_path / "out" / "00000.parquet").to_pylist()
    assert sorted(row["key"] for row in rows) == ["a", "a", "b", "c.d.jpg"]


def test_a_byte_order_mark_is_no_part_of_caption_or_metadata(tmp_path: Path) -> None:
    files = {name: content if name == "jpg" else BOM_UTF8 + content for name, content in sample("0", picture()).items()}
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": files | {"txt": BOM_UTF8 + b"a robot\r\n"}})
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    assert ImagePoseShards(tmp_path / "out").label(0, [0])[0] == "a robot"


def test_decompression_bombs_are_counted(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    good = io.BytesIO()
    Image.new("RGB", (8, 8)).save(good, "PNG")
    large = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    talkative = good.getvalue()[:33] + text + good.getvalue()[33:]
    images = {str(i): sample("0", image) for i, image in enumerate((large, talkative, picture()))}
    shard = write_tar(tmp_path / "in" / "00000.tar", images)
    annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    stats = stats_of(shard, tmp_path / "out")
    assert stats["kept"] == 1 and stats["dropped"] == {"that cannot be decoded": 2}


def test_a_shard_that_is_cut_off_or_no_tar_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in" / "00000.tar", {f"{i}": sample(str(i), picture(i)) for i in range(9)})
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size * 2 // 5])
    (tmp_path / "in" / "00001.tar").write_bytes(b"an error page")
    (tmp_path / "in" / "00002.tar").write_bytes(b"")
    for file in sorted((tmp_path / "in").iterdir()):
        annotate(file, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    total = add_up(stats_files(tmp_path / "out"))
    assert total["shards cut off or no tar"] == 3 and 1 <= total["kept"] < 9
    source = ImagePoseShards(tmp_path / "out")
    assert len(source) == total["kept"] and source.dropped == {}


def test_captions_and_folders_may_be_in_any_script(tmp_path: Path) -> None:
    caption = "танцующая 舞者 💃 naïve"
    shard = write_tar(tmp_path / "données 日本" / "00000.tar", {"ключ": sample("ключ", picture(), caption)})
    annotate(shard, Annotation(tmp_path / "sortie ü", "fixed"), seeing(person()))
    source = ImagePoseShards(tmp_path / "sortie ü")
    assert source.label(0, [0])[0] == caption and source.name(0).endswith(": ключ")


def test_a_shard_that_was_done_with_other_settings_stops_the_run_by_name(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    job = Annotation(tmp_path / "out", "fixed")
    assert not job.is_done(shard)
    annotate(shard, job, seeing(person()))
    assert job.is_done(shard)
    with pytest.raises(ValueError, match=r"00000_stats.json: min_keypoints: was done with 0.5, got 0.4 now"):
        Annotation(tmp_path / "out", "fixed", Selection(min_keypoints=0.4)).is_done(shard)
    with pytest.raises(ValueError, match="backend: was done with 'fixed'"):
        Annotation(tmp_path / "out", "other").is_done(shard)
    shard.write_bytes(shard.read_bytes() + bytes(10240))
    with pytest.raises(ValueError, match="bytes of the input"):
        job.is_done(shard)
    stats = tmp_path / "out" / "00000_stats.json"
    stats.write_text("{}")
    with pytest.raises(ValueError, match="delete it"):
        job.is_done(shard)


def test_a_failure_leaves_no_files(tmp_path: Path) -> None:
    def fail(frames: np.ndarray) -> list:
        raise MemoryError

    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    with pytest.raises(MemoryError):
        annotate(shard, Annotation(tmp_path / "out", "fail"), fail)
    assert contents(tmp_path / "out") == {} and not list((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{tmp_path / 'file'}.*cannot be read or written"):
        annotate(shard, Annotation(tmp_path / "file" / "out", "fixed"), seeing(person()))
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(ValueError, match="locked.*Permission denied"):
            annotate(shard, Annotation(tmp_path / "locked" / "out", "fixed"), seeing(person()))


@pytest.mark.usefixtures("serial")
def test_the_next_run_removes_the_folders_of_killed_ones_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of done units: a kill may come between the marker and the end of its folder."""
    shard = write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here, elsewhere = f".{platform.node()}.", ".another-node."
    names = [f".0_stats.json{here}{ended.pid}", f".0_stats.json{here}{os.getppid()}", f".0_stats.json{elsewhere}1"]
    for name in names:
        (tmp_path / "out" / f"{name}.partial").mkdir(parents=True)
        (tmp_path / "out" / f"{name}.partial" / "half.tar").write_bytes(b"half")
    monkeypatch.setattr(Annotation, "check", lambda job: None)
    monkeypatch.setattr(Annotation, "open", lambda job: partial(annotate, job=job, estimator=seeing(person())))
    main([str(tmp_path / "in"), str(tmp_path / "out"), "--backend", "fixed"])
    assert stats_of(shard, tmp_path / "out")["kept"] == 1
    assert sorted(file.name for file in (tmp_path / "out").glob(".*")) == sorted(
        f"{name}.partial" for name in names[1:]
    )


def test_a_full_disk_names_the_folder_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    shard = write_tar(
        tmp_path / "in" / "00000.tar", {f"{i}": sample("0", picture(height=256, width=256)) for i in range(9)}
    )
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        with pytest.raises(ValueError, match=f"{tmp_path / 'out'}: cannot be read or written .File too large"):
            annotate(shard, Annotation(tmp_path / "out", "fixed"), seeing(person()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("package", "arguments", "reason"),
    [
        ("rtmlib", ("--weights", __file__), r'rtmlib.* not installed; pip install -e "\.\[pose\]"'),
        (
            "mmengine",
            ("--backend", "mmpose", "--weights", __file__),
            r'\.\[mmpose\]" && pip install --no-deps mmpose==',
        ),
        ("ray", ("--backend", "puppet", "--runner", "ray"), r'ray is not installed; pip install -e "\.\[ray\]"'),
        ("pyarrow", ("--backend", "puppet"), r'pyarrow is not installed; pip install -e "\.\[data\]"'),
        ("", ("--weights", "none.onnx"), "weights: .*none.onnx: no such file"),
        ("", ("--backend", "puppet", "--weights", str(REPOSITORY)), "has no config.json"),
    ],
)
def test_missing_packages_and_files_are_reported_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: tuple[str, ...], reason: str
) -> None:
    write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(scale, "_by_processes", lambda *_: pytest.fail("a worker was started"))
    with pytest.raises(ValueError, match=reason):
        main([str(tmp_path / "in"), str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_missing_pyarrow_is_reported_with_its_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"pip install -e \"\.\[data\]\""):
        annotate(tmp_path / "00000.tar", Annotation(tmp_path / "out", "fixed"), seeing(person()))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "holds no .tar shard"),
        (("--backend", "nobody"), "nobody"),
        (("--backend", "puppet", "--area", "1", "0"), "--area: got (1.0, 0.0)"),
        (("--backend", "puppet", "--min-keypoints", "50"), "--min-keypoints: got (50.0,)"),
        (("--backend", "puppet", "--workers", "0"), "--workers: got 0"),
        (("--backend", "puppet", "--runner", "slurm"), "SLURM_ARRAY_TASK_ID"),
    ],
)
def test_bad_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], reason: str
) -> None:
    (tmp_path / "in").mkdir()
    if arguments:
        write_tar(tmp_path / "in" / "00000.tar", {"0": sample("0", picture())})
    with pytest.raises(SystemExit) as stop:
        start("laion_pose", lambda: main([str(tmp_path / "in"), str(tmp_path / "out"), *arguments]))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("laion_pose: error: ") and reason in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (BrokenPipeError(), 0, ""),
        (KeyboardInterrupt(), 130, "x: interrupted; run the same command again to go on\n"),
        (OSError("two\nlines \ud83d"), 2, "x: error: two lines \\ud83d\n"),
    ],
)
def test_a_script_ends_in_at_most_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, error: BaseException, code: int, printed: str
) -> None:
    """Quietly where the reader of a pipe has ended."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(os, "dup2", lambda *_: None)
    try:
        start("x", fail)
        assert code == 0
    except SystemExit as stop:
        assert stop.code == code
    assert capfd.readouterr().err == printed


def test_input_and_output_must_differ(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", {"0": sample("0", picture())})
    with pytest.raises(ValueError, match="same folder"):
        main([str(tmp_path), str(tmp_path), "--backend", "puppet"])


@pytest.mark.parametrize("script", ["laion_pose", "hdvila", "puppets"])
def test_every_script_shows_help_with_two_examples(script: str) -> None:
    out = run_script(script, "--help").stdout
    assert out[out.index("examples:") :].count(script) >= 2
