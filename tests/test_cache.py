"""The cache: a data set encoded once, on which a run is the same as on pixels, and which cannot go stale."""

import errno
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from followyourpose.cli.main import main
from followyourpose.common.files import locked
from followyourpose.config import TrainConfig, build_config, load_config, locate, save_config
from followyourpose.data import latent_cache
from followyourpose.data.batch import Batch, Clips, EndlessBatches, collate, to_pixels
from followyourpose.data.image_pose import ImagePoseShards
from followyourpose.data.latent_cache import LatentCache, missing_shards
from followyourpose.pose.render import render_skeleton
from followyourpose.training import cache
from followyourpose.training.cache import cached_source, make_cache
from followyourpose.training.components import fingerprint
from followyourpose.training.feed import open_source
from followyourpose.training.loop import build_objective, train
from tests.runs import SIZE, contents
from tests.tiny import TEXT_WIDTH, TOKENS

COUNTS = {"images": 7, "clips": 3}
FRAMES = {"images": 1, "clips": 6}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards of both kinds, and batches that end within a clip."""
    monkeypatch.setattr(cache, "SHARD_SAMPLES", 2)
    monkeypatch.setattr(cache, "BATCH_PIXELS", 4 * SIZE * SIZE)


def settings(world: Path, folder: Path, kind: str = "images", *overrides: str) -> TrainConfig:
    """A small run on the cache `folder`/cache; an override is key=value."""
    data = {"path": str(world / "data" / kind), "kind": kind, "height": SIZE, "width": SIZE}
    data |= {"skeleton": kind == "images", "cache": str(folder / "cache")}
    content = {
        "init": str(world / "video-model"), "output": str(folder / "run"), "steps": 2, "log_every": 1, "data": data,
        "trainable": [r"^pose_encoder\." if kind == "images" else "attn_temp"], "optim": {"batch_size": 2},
    }  # fmt: skip
    return build_config(TrainConfig, content, overrides)


# ---- content ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_it_holds_what_the_networks_make_of_the_data(world: Path, tmp_path: Path, kind: str) -> None:
    config = settings(world, tmp_path, kind)
    objective, data = build_objective(config), open_source(config.data)
    cached = LatentCache(make_cache(config))
    assert len(cached) == len(data) == COUNTS[kind]
    for index in range(len(data)):
        frames = [0] if kind == "images" else [1, 4]
        (caption, people), (own_caption, own_people) = data.label(index, frames), cached.label(index, frames)
        assert cached.num_frames(index) == data.num_frames(index) and own_caption == caption
        assert cached.name(index) == data.name(index)
        assert (own_people is None) == (people is None) and (people is None or np.array_equal(own_people, people))
        content = cached.read(index, frames)
        moments = objective.moments(to_pixels(data.read(index, frames))[None])[0]
        text = objective.encode_text([caption], torch.device("cpu"))[0]
        assert content["moments"].shape == (8, len(frames), SIZE // 2, SIZE // 2)
        assert content["text"].shape == (TOKENS, TEXT_WIDTH)
        assert content["moments"].dtype == content["text"].dtype == torch.float16
        torch.testing.assert_close(content["moments"].float(), moments, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(content["text"].float(), text, rtol=1e-3, atol=1e-4)


def test_a_caption_is_encoded_once_however_often_it_occurs(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label = ImagePoseShards.label
    monkeypatch.setattr(ImagePoseShards, "label", lambda self, i, frames: (f"{i % 3}", label(self, i, frames)[1]))
    folder = make_cache(settings(world, tmp_path))
    assert json.loads((folder / "texts.json").read_text())["captions"] == ["0", "1", "2"]
    assert latent_cache.read_plan(folder).text == [2, 1] and latent_cache.read_plan(folder).latents == [2, 2, 2, 1]
    cached = LatentCache(folder)
    assert torch.equal(cached.read(1, [0])["text"], cached.read(4, [0])["text"])
    assert not torch.equal(cached.read(1, [0])["text"], cached.read(2, [0])["text"])


def test_a_shard_holds_as_many_samples_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_SAMPLES", 3)
    monkeypatch.setattr(cache, "SHARD_BYTES", 10)
    assert cache._portions([1, 1, 1, 1, 9, 20, 5, 5]) == [3, 2, 1, 2]


def test_only_the_wanted_frames_are_read(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = LatentCache(make_cache(settings(world, tmp_path, "clips")))
    whole = cached.read(1, range(6))["moments"]
    rows_read = []

    class Slice:
        def __init__(self, content) -> None:
            self.content = content

        def __getitem__(self, rows: list[int]) -> torch.Tensor:
            rows_read.append(rows)
            return self.content[rows]

    class File:
        def __init__(self, *arguments: object) -> None:
            self.file = safe_open(*arguments)

        def get_slice(self, name: str) -> Slice:
            return Slice(self.file.get_slice(name))

    safe_open, fresh = latent_cache.safe_open, LatentCache(cached.folder)
    monkeypatch.setattr(latent_cache, "safe_open", File)
    moments = fresh.read(1, [2, 5])["moments"]
    # clip 1 begins after the six frames of clip 0
    assert rows_read[0] == rows_read[1] == [6 + 2, 6 + 5] and len(rows_read[2]) == 1
    assert torch.equal(moments, whole[:, [2, 5]])


@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])  # a spawned one imports everything again
def test_workers_read_what_the_process_itself_reads(world: Path, tmp_path: Path, context: str, workers: int) -> None:
    cached = LatentCache(make_cache(settings(world, tmp_path)))
    clips = Clips(cached, 1, [1, 1], (SIZE, SIZE), render_skeleton)
    clips[0, 0]  # has a file open already

    def batches(**workers: object) -> list[Batch]:
        order = EndlessBatches(len(cached), 3, seed=0)
        loader = iter(DataLoader(clips, batch_sampler=order, collate_fn=collate, **workers))
        return [next(loader) for _ in range(4)]

    for here, there in zip(batches(), batches(num_workers=workers, multiprocessing_context=context), strict=True):
        assert here.captions == there.captions and here.pixels is there.pixels is None
        for name in ("moments", "text", "skeleton", "people"):
            assert torch.equal(getattr(here, name), getattr(there, name))


# ---- the same run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_cached_and_uncached_runs_agree_up_to_half_precision(world: Path, tmp_path: Path, kind: str) -> None:
    losses = []
    for number, cached in enumerate((str(tmp_path / "cache"), "null")):
        output = f"output={tmp_path / str(number)}"
        run = train(settings(world, tmp_path, kind, "prompt_dropout=0.5", f"data.cache={cached}", output))
        losses.append([json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_dropped_captions_are_the_empty_one_and_the_same_with_a_cache(
    world: Path, tmp_path: Path, dropout: float
) -> None:
    objective = build_objective(settings(world, tmp_path, "images", f"prompt_dropout={dropout}"))
    captions, cpu = ["a cat", "a dog", "can do", "do", "a", "cat", "dog", "can"], torch.device("cpu")
    states = objective.encode_text(captions, cpu)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    cached = objective.text(Batch(captions, text=states.half()), generators[0], cpu)
    torch.testing.assert_close(cached, objective.text(Batch(captions), generators[1], cpu), rtol=1e-3, atol=1e-3)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    empty = objective.encode_text([""], cpu)[0]
    dropped = [torch.equal(state, empty) for state in cached]
    assert {0.0: sum(dropped) == 0, 0.5: 0 < sum(dropped) < 8, 1.0: sum(dropped) == 8}[dropout]


def test_the_posterior_is_sampled_anew_at_every_visit(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path)
    objective, generator = build_objective(config), torch.Generator().manual_seed(0)
    batch = collate([Clips(LatentCache(make_cache(config)), 1, [1, 1], (SIZE, SIZE), None)[0, 0]])
    assert not torch.equal(objective.latents(batch, generator), objective.latents(batch, generator))


def test_pictures_of_any_size_are_placed_as_a_run_places_them(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path, "images", "data.height=8")
    objective, size = build_objective(config), (8, SIZE)
    own, other = (Clips(source, 1, [1, 1], size, render_skeleton)[3, 0] for source in (
        LatentCache(make_cache(config)), open_source(config.data)
    ))  # fmt: skip
    assert torch.equal(own["skeleton"], other["skeleton"]) and np.array_equal(own["people"], other["people"])
    moments = objective.moments(other["pixels"][None])[0]
    torch.testing.assert_close(own["moments"].float(), moments, rtol=1e-3, atol=1e-4)


def test_a_sample_that_cannot_be_read_is_named_by_the_run_that_needs_it(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "clips"
    shutil.copytree(world / "data" / "clips", data)
    (data / "000001.mp4").write_text("no video")
    config = settings(world, tmp_path, "clips", f"data.path={data}", "data.num_frames=2")
    cached = LatentCache(make_cache(config))
    assert [cached.num_frames(index) for index in range(3)] == [6, 1, 6]
    with pytest.raises(ValueError, match="could not be read when the cache was made"):
        cached.read(1, [0])
    train(config)
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "bad.jsonl").read_text().splitlines()]
    assert row["name"] == str(data / "000001.mp4")


def test_a_clips_captions_keep_their_frames(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "clips"
    shutil.copytree(world / "data" / "clips", data)
    said = [{"frame": 0, "caption": "first"}, {"frame": 5, "caption": "last"}]
    (data / "manifest.jsonl").write_text(json.dumps({"video": "000000.mp4", "caption": said}) + "\n")
    cached = LatentCache(make_cache(settings(world, tmp_path, "clips", f"data.path={data}")))
    assert [cached.label(0, frames)[0] for frames in ([0, 2], [3, 5])] == ["first", "last"]
    assert not torch.equal(cached.read(0, [0, 2])["text"], cached.read(0, [3, 5])["text"])


def test_a_whole_cache_needs_its_data_no_more(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / "images"
    shutil.copytree(world / "data" / "images", data)
    config = settings(world, tmp_path, "images", f"data.path={data}")
    make_cache(config)
    shutil.rmtree(data)
    train(config, dry_run=True)
    assert "data: 7 samples in " in capsys.readouterr().out and not (tmp_path / "run").exists()
    assert (train(config) / "weights.safetensors").exists()


# ---- the same command resumes ----------------------------------------------------------------------------------------


def test_the_command_of_a_whole_cache_changes_nothing(world: Path, tmp_path: Path) -> None:
    save_config(settings(world, tmp_path), tmp_path / "run.yaml")
    assert main(["cache", str(tmp_path / "run.yaml")]) == 0
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    assert main(["cache", str(tmp_path / "run.yaml")]) == 0
    assert before == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}


@pytest.mark.parametrize("file", ["texts.json", "cache.json", "text-00001.safetensors", "latents-00001.safetensors"])
def test_a_killed_encode_goes_on_and_equals_an_unbroken_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    unbroken = make_cache(settings(world, tmp_path / "unbroken"))
    whole = cache.atomic_file

    @contextmanager
    def dies(target: Path) -> Iterator[Path]:
        with whole(target) as partial:
            yield partial
            if target.name == file:
                shutil.copy(partial, target.with_name(f".{file}.1.partial"))  # as a kill leaves it
                raise KeyboardInterrupt

    config = settings(world, tmp_path)
    monkeypatch.setattr(cache, "atomic_file", dies)
    with pytest.raises(KeyboardInterrupt):
        make_cache(config)
    monkeypatch.setattr(cache, "atomic_file", whole)
    folder = tmp_path / "cache"
    assert not (folder / file).exists()
    with pytest.raises(ValueError, match="cache"):
        LatentCache(folder)
    written = {p.name: p.stat().st_mtime_ns for p in folder.glob("[lt]*-*.safetensors")}
    assert contents(make_cache(config)) == contents(unbroken)
    assert all((folder / name).stat().st_mtime_ns == time for name, time in written.items())


def test_several_processes_share_the_work(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path)
    objective, folder = build_objective(config), tmp_path / "cache"
    names = [name for name, _ in latent_cache.read_plan(make_cache(settings(world, tmp_path / "one"))).shards()]
    for index in range(2):
        state = SimpleNamespace(num_processes=2, process_index=index, wait_for_everyone=lambda: None)
        if index == 0:  # it would wait for the other's here
            with pytest.raises(ValueError, match="is missing"):
                cached_source(config, objective, state)
            assert missing_shards(folder) == names[1::2]
        else:
            assert len(cached_source(config, objective, state)) == COUNTS["images"]
    assert contents(folder) == contents(tmp_path / "one" / "cache")


def test_a_full_disk_is_reported_and_whole_files_stay(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = cache.write_tensors

    def full(path: Path, *content: object) -> None:
        write(path, *content)
        if "latents-00001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    config = settings(world, tmp_path)
    monkeypatch.setattr(cache, "write_tensors", full)
    with pytest.raises(ValueError, match=r"cache: latents-00001.* cannot be written \(No space left on device\)"):
        make_cache(config)
    monkeypatch.setattr(cache, "write_tensors", write)
    assert (tmp_path / "cache" / "latents-00000.safetensors").exists()
    assert not list((tmp_path / "cache").glob("*.partial"))
    assert len(LatentCache(make_cache(config))) == COUNTS["images"]


# ---- it cannot go stale ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.height=32", "data.height: got 32, expected 16, as it was encoded"),
        ("data.kind=clips", "data.kind: got 'clips', expected 'images'"),
        ("data.path=elsewhere", "data.path: got 'elsewhere', expected '.*images'"),
        ("data.limit=9", None),
        ("data.limit=3", None),
    ],
)
def test_another_runs_cache_is_refused_by_key(world: Path, tmp_path: Path, override: str, reason: str | None) -> None:
    before = contents(make_cache(settings(world, tmp_path)))
    config = settings(world, tmp_path, "images", override)
    if reason is None:  # a part of the data is a part of the cache
        assert len(LatentCache(make_cache(config), config.data.limit)) == min(7, config.data.limit)
    else:
        with pytest.raises(ValueError, match=f"cache: {reason}"):
            train(config)
        assert not (tmp_path / "run").exists()
    assert contents(tmp_path / "cache") == before


@pytest.mark.parametrize("network", ["vae", "text_encoder"])
def test_another_networks_cache_is_refused(world: Path, tmp_path: Path, network: str) -> None:
    config = settings(world, tmp_path)
    make_cache(config)
    objective = build_objective(config)
    objective.half().float()  # as an export in half precision
    state = SimpleNamespace(num_processes=1, process_index=0, wait_for_everyone=lambda: None)
    assert len(cached_source(config, objective, state)) == COUNTS["images"]
    with torch.no_grad():
        next(objective.parts[network].parameters()).mul_(1.01)
    with pytest.raises(ValueError, match=f"cache: {network}: got '[0-9a-f]+', expected '[0-9a-f]+', as it was encoded"):
        cached_source(config, objective, state)


def test_a_fingerprint_sees_shapes_names_and_values() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 6)
    assert fingerprint(layer) == fingerprint(layer)
    other = torch.nn.Linear(6, 4)
    other.weight.data, other.bias.data = layer.weight.data.reshape(4, 6), layer.bias.data
    assert len({fingerprint(layer), fingerprint(other), fingerprint(torch.nn.Sequential(layer))}) == 3


@pytest.mark.parametrize(("made", "used"), [(3, None), (3, 5)])
def test_a_cache_of_fewer_samples_is_refused(world: Path, tmp_path: Path, made: int, used: int | None) -> None:
    make_cache(settings(world, tmp_path, "images", f"data.limit={made}"))
    with pytest.raises(ValueError, match=rf"cache: data.limit: got {used or 7} samples \(limit={used}\), expected 3"):
        train(settings(world, tmp_path, "images", f"data.limit={used or 'null'}"))


def test_an_unfinished_cache_goes_on_only_with_as_many_samples(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_cache(settings(world, tmp_path))
    (folder / "latents-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"data.limit: got 2 samples \(limit=2\), expected 7"):
        make_cache(settings(world, tmp_path, "images", "data.limit=2"))


def test_a_dry_run_encodes_nothing(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(settings(world, tmp_path), dry_run=True)
    assert "data: 7 samples in " in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.cache=null", "data.cache: got None, expected the folder of an encoded data set"),
        ("data.cache=true", "data.cache: got 'true', expected the folder"),
        ("objective=locate", "data.cache: got .*, which is for objective denoise; this one is locate"),
        ("scratch=[vae]", "data.cache: got .*, but vae is among scratch"),
        ("data.crop=random", "data.crop: got 'random', expected 'center': a cache holds one view of each sample"),
        ("data.flip=0.5", "data.flip: got 0.5, expected 0: a cache holds one view of each sample"),
        ("data.path=nowhere", "data.path: nowhere: no such file or folder"),
        ("data.kind=image", "data.kind: got 'image', expected one of images, clips"),
    ],
)
def test_settings_that_cannot_be_encoded_are_named_and_leave_nothing(
    world: Path, tmp_path: Path, override: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        make_cache(settings(world, tmp_path, "images", override))
    assert not list(tmp_path.iterdir())


def test_the_examples_of_the_help_can_be_encoded(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["cache", "--help"])
    examples = re.findall(r"^  followyourpose cache (\S+) *(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(examples) == 2
    for file, overrides in examples:
        cache.check_cacheable(load_config(TrainConfig, locate(file), overrides.split()))


def test_a_folder_of_other_files_is_refused(world: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="cache: is not empty and holds no encoded data set"):
        make_cache(settings(world, tmp_path))
    assert contents(tmp_path / "cache") == {"notes.txt": b"mine"}


def test_a_broken_plan_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache.json").write_text("{}")
    with pytest.raises(ValueError, match="cache.json: cannot be read as an encoded data set's"):
        LatentCache(tmp_path)


# ---- damage ----------------------------------------------------------------------------------------------------------


def flip(file: Path, content: bytes) -> None:
    """Flip a bit in the middle of the last occurrence of `content` in a file."""
    data = bytearray(file.read_bytes())
    data[bytes(data).rindex(content) + len(content) // 2] ^= 1
    file.write_bytes(data)


def test_a_damaged_row_is_a_bad_sample(world: Path, tmp_path: Path) -> None:
    cached = LatentCache(make_cache(settings(world, tmp_path)))
    for kind, name in (("latents", "moments"), ("text", "text")):
        shard = cached.folder / f"{kind}-00001.safetensors"
        flip(shard, load_file(shard)[name][1].numpy().tobytes())
    damaged, good = LatentCache(cached.folder), []
    for index in range(len(cached)):
        try:
            damaged.read(index, [0])
            good.append(index)
        except ValueError as error:
            assert re.search(r"(latents|text)-00001.safetensors: is damaged", str(error))
    assert 0 in good and 3 not in good


@pytest.mark.parametrize("file", ["latents-00001.safetensors", "labels.safetensors", "texts.json"])
@pytest.mark.parametrize("cut", [False, True])
def test_damaged_labels_are_named(world: Path, tmp_path: Path, file: str, cut: bool) -> None:
    path = make_cache(settings(world, tmp_path)) / file
    if cut:
        path.write_bytes(path.read_bytes()[:-20])
    elif path.suffix == ".json":
        path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    else:
        flip(path, load_file(path)["keypoints" if file.startswith("latents") else "frames"].numpy().tobytes())
    with pytest.raises(ValueError, match=f"{file}: (is damaged|cannot be read|not a JSON file)"):
        LatentCache(path.parent)


def test_a_cache_of_an_earlier_version_is_refused(world: Path, tmp_path: Path) -> None:
    folder = make_cache(settings(world, tmp_path))
    (folder / "texts.json").rename(folder / "captions.json")
    with pytest.raises(ValueError, match=r"cache: no texts.json: .* of an earlier version; remove it"):
        make_cache(settings(world, tmp_path))


def test_two_commands_do_not_encode_one_cache_at_once(world: Path, tmp_path: Path) -> None:
    config = settings(world, tmp_path)
    with locked(tmp_path / "cache"), pytest.raises(ValueError, match="cache: another command is writing there"):
        make_cache(config)
    with locked(make_cache(config)):
        make_cache(config)  # writes nothing, and so needs no lock
