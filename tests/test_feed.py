"""The feed: a run's batches depend on nothing but their place in the order, whatever its data and workers do."""

import functools
import gc
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch

from followyourpose.config import DataConfig, TrainConfig, build_config
from followyourpose.data.batch import Batch, Clips
from followyourpose.data.remote import shard_files
from followyourpose.data.video_io import write_video
from followyourpose.puppets.dataset import write_dataset
from followyourpose.training import feed as feed_module
from followyourpose.training.feed import Feed, open_feed, open_source

SIZE = (8, 8)


class Numbers:
    """Source of pictures of one grey, their number; some samples are bad, and one may strike the worker."""

    def __init__(self, length: int, bad: Sequence[int] = (), strike: int | None = None, by: str = "") -> None:
        self.length, self.bad, self.strike, self.by = length, set(bad), strike, by
        self.flags: Path | None = None  # a folder: the strike comes once, and leaves a file; None: always

    def __len__(self) -> int:
        return self.length

    def num_frames(self, index: int) -> int:
        return 1

    def name(self, index: int) -> str:
        return f"data/{index}"

    def label(self, index: int, frames: Sequence[int]) -> tuple[str, None]:
        return str(index), None

    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        if index in self.bad:
            raise ValueError("torn")
        if index == self.strike and not (self.flags and (self.flags / "struck").exists()):
            if self.flags:
                (self.flags / "struck").touch()
            if self.by == "kill with lock":
                hold_lock()
            if self.by.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1000)
        return np.full((1, *SIZE, 3), index % 256, np.uint8)


def hold_lock() -> None:
    """Take the lock of the event that ends torch's workers, if it has one."""
    frame = sys._getframe()
    while "done_event" not in frame.f_locals:
        frame = frame.f_back
    if condition := getattr(frame.f_locals["done_event"], "_cond", None):
        condition.acquire()


def feed(source: Numbers, batch: int = 4, seed: int = 0, **options) -> Feed:
    return Feed(Clips(source, 1, [1, 1], SIZE, None, seed=seed), batch, **options)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frequent checks for dead workers."""
    monkeypatch.setattr(feed_module, "_CHECK", 0.2)


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    before = set(active_children())
    yield
    for process in set(active_children()) - before:
        process.kill()


def captions(batches: Iterator[Batch], count: int) -> list[list[str]]:
    return [batch.captions for batch in islice(batches, count)]


# ---- order and coverage ----------------------------------------------------------------------------------------------


def test_two_ranks_with_two_workers_each_see_all_data_once() -> None:
    feeds = [feed(Numbers(24), 3, rank=rank, ranks=2, workers=2) for rank in range(2)]
    seen = [sum(captions(each, 4), []) for each in feeds]
    for each in feeds:
        assert each.position == 24
        each.close()
    assert not set(seen[0]) & set(seen[1]) and sorted(map(int, seen[0] + seen[1])) == list(range(24))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_goes_on_where_another_stopped_with_other_ranks_and_workers(workers: int) -> None:
    alone = sum(captions(feed(Numbers(30), 6), 8), [])
    first = feed(Numbers(30), 6)
    assert sum(captions(first, 2), []) == alone[:12]
    two = [feed(Numbers(30), 3, position=first.position, rank=rank, ranks=2, workers=workers) for rank in range(2)]
    parts = [captions(each, 6) for each in two]
    for each in two:
        each.close()
    assert [name for step in zip(*parts, strict=True) for part in step for name in part] == alone[12:]


# ---- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["kill with lock", "hang"])
def test_a_worker_that_dies_or_hangs_does_no_harm(by: str, tmp_path: Path, short: None) -> None:
    """Nothing is lost or doubled, and the restart is reported."""
    expected = captions(feed(Numbers(40)), 15)
    source, reports = Numbers(40, strike=int(expected[5][2]), by=by), []
    source.flags = tmp_path
    struck = feed(source, workers=2, timeout=1.0 if by == "hang" else 60.0, on_bad=reports.append)
    started = time.monotonic()
    assert captions(struck, 15) == expected
    struck.close()
    assert time.monotonic() - started < 40 and (tmp_path / "struck").exists()
    assert len(reports) == 1 and "started anew at sample" in reports[0]


class Threaded:
    """Garbage that waits, when freed, for threads of the process that made it, as a video reader does."""

    def __init__(self) -> None:
        self.itself, self.process = self, os.getpid()

    def __del__(self) -> None:
        if os.getpid() != self.process:
            time.sleep(1000)


class Tidy(Numbers):
    def read(self, index: int, frames: Sequence[int]) -> np.ndarray:
        gc.collect()
        return super().read(index, frames)


def test_garbage_from_before_the_workers_is_no_business_of_theirs(short: None) -> None:
    expected, reports = captions(feed(Numbers(16)), 4), []
    Threaded()
    working = feed(Tidy(16), workers=1, timeout=5.0, on_bad=reports.append)
    assert captions(working, 4) == expected and not reports
    working.close()


def test_a_worker_killed_from_outside_is_replaced_and_no_step_is_disturbed(short: None) -> None:
    expected, lines = captions(feed(Numbers(40)), 12), []
    killed = feed(Numbers(40), workers=2, on_bad=lines.append)
    seen = captions(killed, 3)
    for process in killed._processes:
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.5)  # the step: torch's own handler would raise here
    assert seen + captions(killed, 9) == expected and lines
    killed.close()


def test_a_batch_that_kills_every_worker_ends_the_run_by_name(short: None) -> None:
    deadly = feed(Numbers(12, strike=7, by="kill"), 3, workers=1)
    with pytest.raises(RuntimeError, match=r"failed 3 times .* on the batch of .*data/7"):
        captions(deadly, 4)


# ---- bad samples -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_named_once_in_all_epochs(workers: int, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    reports: list[str] = []
    source = Numbers(20, bad=[3])
    stream = feed(source, workers=workers, on_bad=reports.append, bad_file=tmp_path / "bad.jsonl")
    seen = sum(captions(stream, 15), [])
    stream.close()
    assert len(seen) == 60 and "3" not in seen
    assert reports == ["bad sample data/3: torn"] and stream.bad == {"data/3": "torn"}
    assert [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()] == [
        {"name": "data/3", "reason": "torn"}
    ]


def test_a_bad_sample_is_named_once_over_ranks_and_by_a_run_that_goes_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    reports: list[str] = []
    seen, start = 0, 0
    for _ in range(3):  # runs of two epochs
        options = {"position": start, "ranks": 2, "on_bad": reports.append, "bad_file": tmp_path / "bad.jsonl"}
        feeds = [feed(Numbers(20, bad=[3]), 5, rank=rank, **options) for rank in range(2)]
        for each in feeds * 4:
            next(each)
        seen += sum("data/3" in each.bad for each in feeds)
        start = feeds[0].position
    assert seen >= 3 and reports == ["bad sample data/3: torn"]
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 1


def test_bad_samples_are_written_only_once_the_run_has_a_config(tmp_path: Path) -> None:
    """Before, a run can still turn out to be impossible, and must leave nothing."""
    (tmp_path / "run").mkdir()
    stream = feed(Numbers(20, bad=[3, 4]), 20, bad_file=tmp_path / "run" / "bad.jsonl")
    next(stream)
    assert len(stream.bad) == 2 and not list((tmp_path / "run").iterdir())
    (tmp_path / "run" / "config.yaml").touch()
    next(stream)
    stream.close()
    assert len((tmp_path / "run" / "bad.jsonl").read_text().splitlines()) == 2


def test_too_many_bad_samples_stop_the_run_with_numbers_and_names() -> None:
    """But not before fifty were tried."""
    stream = feed(Numbers(200, bad=range(0, 200, 5)), 10, name="clips/")
    captions(stream, 4)
    with pytest.raises(
        ValueError, match=r"clips/: \d+ of the 50 samples tried .*data\.max_bad \(0\.1\).*data/\d+: torn"
    ):
        captions(stream, 1)


def test_a_share_of_bad_samples_that_is_allowed_is_only_counted() -> None:
    stream = feed(Numbers(200, bad=range(0, 200, 20)), 10)
    captions(stream, 60)
    assert len(stream.bad) == 10


@pytest.mark.parametrize("workers", [0, 1])
def test_data_of_which_nothing_can_be_read_stops_with_one_line(workers: int) -> None:
    stream = feed(Numbers(3, bad=range(3)), workers=workers, name="folder")
    with pytest.raises(ValueError, match=r"^folder: none of 3 samples in a row can be read, such as data/\d: torn$"):
        next(stream)
    stream.close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips, of which three are no videos: one cut in two, one empty, one a text."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    write_video(folder / "00.mp4", rng.integers(0, 256, (6, 16, 16, 3), np.uint8), 8)
    whole = (folder / "00.mp4").read_bytes()
    for number in range(1, 20):
        (folder / f"{number:02d}.mp4").write_bytes(whole)
    (folder / "07.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "11.mp4").write_bytes(b"")
    (folder / "13.mp4").write_text("404: not found\n" * 100)
    rows = [json.dumps({"video": f"{number:02d}.mp4", "caption": f"clip {number}"}) for number in range(20)]
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def config(path: Path | str, **data) -> TrainConfig:
    content = {"output": "run", "init": "model", "trainable": ["x"], "steps": 1, "optim": {"batch_size": 6}}
    return build_config(TrainConfig, content | {"data": {"path": str(path), "height": 8, "width": 8} | data})


def test_corrupt_clips_are_named_once_and_the_others_go_on(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    settings = config(clips, kind="clips", num_frames=3, workers=2)
    reports: list[str] = []
    stream = open_feed(settings, open_source(settings.data), on_bad=reports.append, bad_file=tmp_path / "bad.jsonl")
    batches = list(islice(stream, 7))  # two epochs
    stream.close()
    assert all(batch.pixels.shape == (6, 3, 3, 8, 8) for batch in batches)
    assert {Path(name).name for name in stream.bad} == {"07.mp4", "11.mp4", "13.mp4"} and len(reports) == 3
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3
    assert len({name for batch in batches for name in batch.names}) == 17


def test_corrupt_clips_do_not_let_memory_grow(clips: Path) -> None:
    settings = config(clips, kind="clips", num_frames=3)
    stream = open_feed(settings, open_source(settings.data), on_bad=None)

    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20  # MiB

    captions(stream, 7)
    before = resident()
    captions(stream, 20)  # 18 of the corrupt ones
    assert resident() - before < 20


# ---- what is opened --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("world"), images=12, clips=2, size=32, clip_frames=6)


def shards(world: Path, folder: Path, count: int = 3) -> Path:
    """The puppets' shard as `count` shards of the same content."""
    for number in range(count):
        (folder / f"{number:05d}.tar").write_bytes((world / "images" / "00000.tar").read_bytes())
    return folder


def test_a_cropped_and_flipped_puppet_keeps_pixels_skeleton_and_people_together(world: Path) -> None:
    settings = config(world / "images", skeleton=True, height=24, width=16, crop="random", flip=0.5)
    batch = next(open_feed(settings, open_source(settings.data)))
    assert batch.pixels.shape == batch.skeleton.shape == (6, 3, 1, 24, 16)
    for skeleton, person in zip(batch.skeleton[:, :, 0], batch.people[:, 0], strict=True):
        seen = person[person[:, 2] > 0, :2].round().long()
        assert len(seen) > 8 and (skeleton[:, seen[:, 1], seen[:, 0]].amax(0) > 0).float().mean() > 0.8


def test_the_defaults_take_the_puppets_as_they_are(world: Path) -> None:
    settings = config(world / "images", skeleton=True, height=32, width=32)
    source = open_source(settings.data)
    batch = next(open_feed(settings, source))
    for name, pixels, people in zip(batch.names, batch.pixels, batch.people, strict=True):
        index = next(i for i in range(len(source)) if source.name(i) == name)
        image = torch.from_numpy(source.read(index, [0])[0]).permute(2, 0, 1).float() / 127.5 - 1
        assert torch.equal(pixels[:, 0], image)
        assert np.array_equal(people[: len(source.label(index, [0])[1])], source.label(index, [0])[1])


def test_a_pattern_names_local_shards(world: Path, tmp_path: Path) -> None:
    shards(world, tmp_path)
    assert len(open_source(DataConfig(path=str(tmp_path / "{00000..00001}.tar")))) == 24
    assert len(open_source(DataConfig(path=str(tmp_path / "00002.tar")))) == 12
    with pytest.raises(ValueError, match=r"2 of its 5 shards not found, such as .*00003\.tar"):
        open_source(DataConfig(path=str(tmp_path / "{00000..00004}.tar")))


@pytest.fixture
def server(world: Path, tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """Address of a folder with three shards, and the requests that it got."""
    (tmp_path / "served").mkdir()
    shards(world, tmp_path / "served")
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            requests.append(f"{self.command} {self.path}")

    handler = functools.partial(Handler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def test_remote_shards_are_copied_once_and_read_like_local_ones(
    server: tuple[str, list[str]], world: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    address, requests = server
    data = DataConfig(path=f"{address}/{{00000..00002}}.tar", download=str(tmp_path / "copies"))
    source, local = open_source(data), open_source(DataConfig(path=str(world / "images")))
    assert len(source) == 36 and np.array_equal(source.read(12, [0]), local.read(0, [0]))
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 3 and not list((tmp_path / "copies").glob("*partial*"))
    before = len(requests)
    open_source(data)
    assert before and len(requests) == before


def test_processes_that_want_the_same_remote_shard_copy_it_once(server: tuple[str, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    address, requests = server
    code = f"from followyourpose.data.remote import shard_files; shard_files({address + '/00001.tar'!r}, 'copies')"
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len([line for line in requests if line.startswith("GET")]) == 1
    assert len(list((tmp_path / "copies").glob("*.tar"))) == 1


def test_a_remote_shard_that_is_not_there_is_named(server: tuple[str, list[str]], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with pytest.raises(ValueError, match=r"/missing\.tar: cannot be copied to .*copies"):
        shard_files(f"{server[0]}/missing.tar", tmp_path / "copies")
    assert not list((tmp_path / "copies").glob("*.tar"))


@pytest.mark.parametrize("missing", ["braceexpand", "fsspec"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf'{missing} is not installed; pip install -e "\.\[data\]"'):
        shard_files("http://127.0.0.1:9/{0..1}.tar", tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("crop", "middle"), ("kind", "image"), ("flip", 1.5), ("max_bad", -0.1), ("timeout", 0.0), ("stride", [2, 1])],
)
def test_settings_out_of_range_are_named(world: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"data\.{key}: got"):
        config(world / "images", **{key: value})


# ---- a folder of images with a manifest ------------------------------------------------------------------------------


def image_folder(world: Path, folder: Path) -> list[dict]:
    """Write the puppets' images as files; return the rows of their manifest."""
    source = open_source(DataConfig(path=str(world / "images")))
    rows = []
    for index in range(len(source)):
        caption, people = source.label(index, [0])
        (folder / f"{index}.jpg").write_bytes(source._part(index, "image"))
        people = [{"keypoints": person.round(2).tolist()} for person in people.astype(float)]
        rows.append({"image": f"{index}.jpg", "caption": caption, "people": people, "width": 32, "height": 32})
    return rows


def same(first, second) -> bool:
    return len(first) == len(second) and all(
        first.label(i, [0])[0] == second.label(i, [0])[0]
        and np.allclose(first.label(i, [0])[1], second.label(i, [0])[1])
        and np.array_equal(first.read(i, [0]), second.read(i, [0]))
        for i in range(len(first))
    )


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "parquet of JSON strings"])
def test_a_manifest_gives_what_the_shards_give(world: Path, tmp_path: Path, kind: str) -> None:
    rows = image_folder(world, tmp_path)
    if kind.startswith("parquet"):
        arrow = pytest.importorskip("pyarrow", reason="pyarrow, of the extra [data], is not installed")
        from pyarrow.parquet import write_table

        if "strings" in kind:
            rows = [row | {"people": json.dumps(row["people"])} for row in rows]
        write_table(arrow.Table.from_pylist(rows), tmp_path / "manifest.parquet")
    else:
        (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(DataConfig(path=str(tmp_path)))
    assert same(source, open_source(DataConfig(path=str(world / "images"))))
    assert source.name(3) == str(tmp_path / "3.jpg")


@pytest.mark.parametrize("lacking", ["image", "caption", "people"])
def test_a_row_that_lacks_something_is_named_with_its_line(world: Path, tmp_path: Path, lacking: str) -> None:
    rows = image_folder(world, tmp_path)
    del rows[2][lacking]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"manifest\.jsonl: line 3: expected image, caption and people"):
        open_source(DataConfig(path=str(tmp_path)))


def test_rows_outside_of_the_rules_or_without_a_file_are_counted(world: Path, tmp_path: Path) -> None:
    rows = image_folder(world, tmp_path)
    rows[1]["caption"], rows[2]["people"] = " ", []
    (tmp_path / "3.jpg").unlink()
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(DataConfig(path=str(tmp_path)))
    assert len(source) == 9 and sum(source.dropped.values()) == 3 and source.dropped["without a file"] == 1
    with pytest.raises(ValueError, match="no image, expected at least one .*11 too small"):
        open_source(DataConfig(path=str(tmp_path), min_size=33))
