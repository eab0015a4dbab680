"""The evaluation protocol, with stand-ins for model, detector and CLIP that look up the real frames."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

from followyourpose.common import files
from followyourpose.common.files import locked
from followyourpose.common.pictures import LINE
from followyourpose.config import ConfigError, EvaluateConfig, GenerateConfig, build_config
from followyourpose.evaluation import metrics
from followyourpose.evaluation.compare import compare
from followyourpose.evaluation.draw import drawn_sets, flicker_of_stage_2, generate, noise_of
from followyourpose.evaluation.evaluate import PACKAGES, check, evaluate
from followyourpose.evaluation.evaluators import Evaluators
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.measure import METRICS, measure
from followyourpose.evaluation.metrics import border_change
from followyourpose.evaluation.report import NAME_WIDTH, Report, format_table, sheet_of, worst_cases, write_report
from followyourpose.evaluation.samples import Collection, Sample, puppets
from followyourpose.generation.generate import generate as generate_run
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pipeline.windows import MODES, LongVideo
from followyourpose.pose.detector import PuppetDetector
from followyourpose.puppets.benchmark import write_benchmark
from followyourpose.puppets.world import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, captions
from tests.processes import launch
from tests.tiny import write_image_model

SIDE = 32
CONFIG = EvaluateConfig(num_videos=5, flicker_videos=2, num_frames=3, batch_size=2, num_inference_steps=1)


class Oracle:
    """A pipeline that draws the real frames of the skeleton it is given, and another video's without one."""

    unet = SimpleNamespace(config=SimpleNamespace(sample_size=4, in_channels=2))
    vae_scale_factor = SIDE // 4

    def __init__(self, known: Collection) -> None:
        self.known = known
        pairs = [
            pair for s, f in zip(known.samples, known.real, strict=True) for pair in zip(s.skeleton, f, strict=True)
        ]
        self.drawn = {skeleton.tobytes(): frame for skeleton, frame in pairs}
        self.calls: list[dict] = []

    def __call__(self, prompt: list[str], skeleton: np.ndarray | None, **settings) -> SimpleNamespace:
        self.calls.append({"prompt": prompt, "skeleton": skeleton, **settings})
        if skeleton is None:
            known = list(zip(self.known.samples, self.known.real, strict=True))
            wrong = [next(frames for sample, frames in known if sample.prompt != p) for p in prompt]
            return SimpleNamespace(videos=np.stack(wrong) / 255)
        return SimpleNamespace(videos=np.stack([[self.drawn[f.tobytes()] for f in clip] for clip in skeleton]) / 255)


class Lookup:
    """A detector and a CLIP that look up the keypoints and the captions of real frames."""

    def __init__(self, known: Collection) -> None:
        self.known = {
            frame.tobytes(): (people, sample)
            for sample, frames in zip(known.samples, known.real, strict=True)
            for frame, people in zip(frames, sample.people, strict=True)
        }
        self.all = captions((1,))

    def find(self, frames: np.ndarray) -> list[list[np.ndarray]]:
        return [self.known[frame.tobytes()][0] for frame in frames]

    def images(self, frames: np.ndarray) -> np.ndarray:
        return self.captions([self.known[frame.tobytes()][1].prompt for frame in frames])

    def captions(self, texts: list[str]) -> np.ndarray:
        return np.eye(len(self.all))[[self.all.index(text) for text in texts]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no plots and short bootstraps, which take most of the time; tests of these undo it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(metrics, "bootstrap_interval", partial(metrics.bootstrap_interval, rounds=50))


@pytest.fixture(scope="module")
def known() -> Collection:
    return puppets(CONFIG, SIDE, SIDE)


def evaluators_of(known: Collection) -> Evaluators:
    lookup = Lookup(known)
    return Evaluators(lookup, lookup.find)


@pytest.fixture(scope="module")
def finished(known: Collection) -> tuple[Report, Oracle]:
    """The report on the oracle, and the oracle; not to be changed."""
    pipe, few = Oracle(known), known.samples[: CONFIG.flicker_videos]
    sets = drawn_sets(pipe, known.samples, CONFIG)
    more = flicker_of_stage_2(pipe, pipe, few, CONFIG, sets[""][: CONFIG.flicker_videos])
    sets["real"] = known.real
    return compare(known, sets, evaluators_of(known), more), pipe


def test_scenes_are_held_out_and_repeat_with_the_seed(known: Collection):
    again = puppets(CONFIG, SIDE, SIDE)
    for a, b in zip(known.samples, again.samples, strict=True):
        assert np.array_equal(a.skeleton, b.skeleton)
        assert (a.scene.character, a.scene.background) in HELD_OUT_PAIRS
        assert len(a.scene.actors) == 1 and a.scene.actors[0].motion in HELD_OUT_MOTIONS
    assert np.array_equal(np.stack(known.real), np.stack(again.real))
    assert len({s.scene.seed for s in known.samples}) == len(known.samples)


def test_a_model_that_draws_the_real_frames_reaches_the_ceiling(known: Collection, finished: tuple[Report, Oracle]):
    report, _ = finished
    results = report.results
    assert results["pck@0.1"] == results["pck_real"] == results["pck_ratio"] == 1.0
    assert results["pa"] == pytest.approx(1.0) and results["missed"] == 0
    assert results["cs"] == results["fc"] == pytest.approx(100)
    assert results["character_accuracy"] == results["background_accuracy"] == 1.0
    assert results["flicker"] == results["flicker_real"]
    assert results["n"] == len(known.samples)
    assert np.array_equal(report.videos, np.stack(known.real))


def test_the_chance_baseline_can_be_left_out(known: Collection, tmp_path: Path):
    config = replace(CONFIG, without_skeleton=False)
    sets = drawn_sets(Oracle(known), known.samples, config)
    assert list(sets) == [""]
    report = compare(known, {**sets, "real": known.real}, evaluators_of(known), {})
    assert report.results["pck_ratio"] == 1 and "pck_no_pose" not in report.results
    write_report(tmp_path, config, report)
    assert "share of that of real frames: 1.000\n" in (tmp_path / "metrics.md").read_text(encoding="utf-8") + "\n"


def test_poses_of_other_videos_score_low(known: Collection, finished: tuple[Report, Oracle]):
    results = finished[0].results
    assert results["pck_no_pose"] < 0.5 and results["pck_no_pose_ratio"] < 0.5
    assert results["cs_no_pose"] == 0
    shuffled = measure(known.real[1:] + known.real[:1], known.samples, evaluators_of(known)).summary()
    assert shuffled["pck@0.1"] < 0.5 and shuffled["pa"] < 0.3


def test_all_sets_start_from_the_same_noise(known: Collection, finished: tuple[Report, Oracle]):
    _, pipe = finished
    start = {}
    for name, skeletons, frames in (("posed", True, 3), ("unposed", False, 3)):
        calls = [c for c in pipe.calls if (c["skeleton"] is not None) == skeletons and c["num_frames"] == frames]
        start[name] = torch.cat([c["latents"] for c in calls[:3]])
    assert torch.equal(start["posed"], start["unposed"])
    images = [c for c in pipe.calls if c["num_frames"] == 1]
    assert [len(c["prompt"]) for c in images] == [6, 6]  # two videos of three frames, for either kind of noise
    seeds = [sample.seed for sample in known.samples[:2]]
    assert torch.equal(
        images[1]["latents"], noise_of(pipe, CONFIG, "shared", seeds).transpose(1, 2).reshape(6, 2, 1, 4, 4)
    )
    assert not torch.equal(images[0]["latents"], images[1]["latents"])


def test_a_videos_noise_does_not_depend_on_its_batch(known: Collection):
    pipe = Oracle(known)
    together = noise_of(pipe, CONFIG, "independent", [0, 1, 2])
    assert together.shape == (3, 2, 3, 4, 4)
    assert torch.equal(together[2:], noise_of(pipe, CONFIG, "independent", [2]))
    shared = noise_of(pipe, CONFIG, "shared", [0])
    assert torch.equal(shared[:, :, 0], shared[:, :, 2]) and not torch.equal(together[:, :, 0], together[:, :, 2])


def test_frames_sampled_as_images_come_back_in_order(known: Collection):
    videos = generate(Oracle(known), known.samples, CONFIG, "shared", as_images=True)
    assert np.array_equal(videos, np.stack(known.real))


# ---- single videos --------------------------------------------------------------------------------------------------


def test_frames_in_which_nobody_is_found_are_misses_and_reported(known: Collection):
    lookup = Lookup(known)

    def find(frames: np.ndarray) -> list[list[np.ndarray]]:
        return [[], *lookup.find(frames[1:])]  # nobody in the first of three

    summary = measure(known.real, known.samples, Evaluators(lookup, find)).summary()
    assert summary["missed"] == pytest.approx(1 / 3)
    assert 0.6 < summary["pck@0.1"] < 0.7 and 0.6 < summary["pa"] < 0.7
    nobody = measure(known.real, known.samples, Evaluators(lookup, lambda frames: [[]] * len(frames))).summary()
    assert (nobody["missed"], nobody["pck@0.1"], nobody["pa"]) == (1.0, 0.0, 0.0)


def test_each_person_is_compared_with_the_one_found_in_their_place(known: Collection):
    first, second = known.samples[0].people[0][0], known.samples[1].people[0][0] + (100, 0, 0)
    visible = [(person[:, 2] > 0).sum() for person in (first, second)]
    sample = Sample("two", known.samples[0].prompt, 0, [[first, second]] * 3, (SIDE, SIDE))
    for found, expected in (
        ([second, first], 1),
        ([second], visible[1] / sum(visible)),
        ([first, first], visible[0] / sum(visible)),
    ):
        evaluators = Evaluators(Lookup(known), lambda frames, found=found: [found] * len(frames))
        summary = measure([known.real[0]], [sample], evaluators).summary()
        assert summary["pck@0.1"] == pytest.approx(expected) and summary["missed"] == 0


def test_an_undefined_number_of_one_video_is_left_out_and_reported(known: Collection):
    """One frame has no next one, a sample without skeleton no pose; the other numbers are there, and other videos'."""
    sample = known.samples[0]
    alone = Sample("alone", sample.prompt, 0, [sample.people[0]], sample.size)
    unposed = Sample("unposed", sample.prompt, 0, None, sample.size)
    videos = [known.real[0], known.real[0][:1], known.real[0]]
    measured = measure(videos, [sample, alone, unposed], evaluators_of(known))
    assert measured.summary()["pck@0.1"] == 1 and measured.summary()["cs"] == pytest.approx(100)
    assert list(measured.undefined["fc"].values()) == [1]
    assert measured.undefined["pa"] == {"it has no skeleton with keypoints": 1}
    assert [row["fc"] is None for row in measured.rows()] == [False, True, False]
    assert measure(videos[1:2], [alone], evaluators_of(known)).intervals()["fc_ci95"] is None


def test_features_that_are_no_numbers_stop_the_evaluation(known: Collection):
    lookup = Lookup(known)
    lookup.images = lambda frames: np.full((len(frames), 2), np.nan)
    with pytest.raises(ValueError, match=r"clip: its features of 0000 are not finite"):
        measure(known.real, known.samples, Evaluators(lookup, lookup.find))


def test_poses_are_compared_at_the_size_of_the_video(known: Collection):
    sample = known.samples[0]
    large = np.repeat(np.repeat(known.real[0], 2, 1), 2, 2)
    lookup = Lookup(known)
    found = [[(p + (0.5, 0.5, 0)) * (2, 2, 1) - (0.5, 0.5, 0) for p in people] for people in sample.people]
    lookup.images = lambda frames: lookup.captions([sample.prompt] * len(frames))
    summary = measure([large], [sample], Evaluators(lookup, lambda frames: found)).summary()
    assert summary["pck@0.05"] == 1 and summary["pa"] == pytest.approx(1)


# ---- the report -----------------------------------------------------------------------------------------------------


def test_the_report_holds_every_number_and_its_interval(finished: tuple[Report, Oracle], tmp_path: Path):
    report, _ = finished
    write_report(tmp_path, CONFIG, report)
    content = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    for name in (*(name for name, metric in METRICS.items() if metric.of_each), "pck_ratio"):
        low, high = content[f"{name}_ci95"]
        assert low <= content[name] + 1e-9 and content[name] <= high + 1e-9
    for name in ("flicker_before", "flicker_after"):
        assert set(content[name]) == {"independent", "shared"}
    assert content["settings"]["num_videos"] == 5 and "torch" in content["versions"]
    assert content["judges"]["detector"] == "checkpoints/puppet-eval/detector" and content["undefined"] == {}
    assert {file.name for file in tmp_path.iterdir()} >= {"metrics.md", "samples.png", "worst.png"}
    table = format_table(report.results)
    assert all(name in table for name in ("pck@0.1", "flicker with shared noise", "5 videos", "without skeleton"))
    assert (tmp_path / "metrics.md").read_text(encoding="utf-8") == table + "\n"


def test_every_video_of_every_set_has_a_row_and_metrics_have_plots(
    finished: tuple[Report, Oracle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.undo()
    parquet = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("matplotlib")
    report, _ = finished
    write_report(tmp_path, CONFIG, report)
    rows = parquet.read_table(tmp_path / "videos.parquet").to_pylist()
    assert [(row["set"], row["video"]) for row in rows[::5]] == [("", "0000"), ("no_pose", "0000"), ("real", "0000")]
    assert len(rows) == 15 and (rows[0]["frames"], rows[0]["height"]) == (3, SIDE)
    assert np.mean([row["pck@0.1"] for row in rows[5:10]]) == pytest.approx(report.results["pck_no_pose"])
    assert (tmp_path / "plots.png").stat().st_size > 0


def test_without_the_extra_the_rest_is_written(
    finished: tuple[Report, Oracle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("pyarrow", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    write_report(tmp_path, CONFIG, finished[0])
    assert {file.name for file in tmp_path.iterdir()} == {"metrics.json", "metrics.md", "samples.png", "worst.png"}


def test_the_worst_videos_come_first_with_their_numbers(known: Collection):
    wrong = [*known.real[:3], known.real[4], known.real[3]]
    report = compare(known, {"": wrong}, evaluators_of(known), {})
    numbers, labels = worst_cases(report)
    assert sorted(numbers[:2]) == [3, 4]
    assert labels[0].startswith(f"000{numbers[0]}: {known.samples[numbers[0]].prompt} (pck@0.1 0.")
    sheet = sheet_of(known, known.real, [0, 1], ["one", "two"])
    assert sheet.shape == (2 * (LINE + 3 * SIDE), NAME_WIDTH + 3 * SIDE, 3)
    names = sheet[LINE : LINE + 3 * SIDE, :NAME_WIDTH].reshape(3, -1)
    assert all((row < 128).any() for row in names), "each row has its name before it: skeleton, video, real"


# ---- settings -------------------------------------------------------------------------------------------------------


def test_results_are_never_overwritten(tmp_path: Path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="never overwritten"):
        evaluate(EvaluateConfig(output=str(tmp_path)))


def test_settings_that_cannot_be_measured_are_refused_before_any_model_is_read(tmp_path: Path):
    for change, reason in (
        ("num_frames=1", "num_frames: got 1"),
        ("backend=puppets", "backend: got 'puppets', expected one of light, puppet, rtmlib, mmpose"),
        ("benchmark=puppets", "benchmark: got 'puppets', expected one of puppet-bench-1, puppet-bench-2"),
        ("modes=[papers]", r"modes\[0\]: got 'papers'"),
        ("long_video.mode=papers", "long_video.mode: got 'papers'"),
    ):
        with pytest.raises(ConfigError, match=reason):
            build_config(EvaluateConfig, {}, [change])
    with pytest.raises(ValueError, match="expected a puppet detector's folder"):
        evaluate(EvaluateConfig(output=str(tmp_path), detector=str(tmp_path)))
    for change in ({"seed": 5}, {"num_frames": 4}):
        with pytest.raises(ValueError, match="expected (1000|8), that of puppet-bench-1"):
            evaluate(EvaluateConfig(output=str(tmp_path), benchmark="puppet-bench-1", **change))


@pytest.mark.parametrize("place", [*range(5)])
def test_metrics_json_is_written_whole_and_last_or_not_at_all(
    finished: tuple[Report, Oracle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
):
    """A disk that is full from the given file on: no file is cut, and the folder is named."""
    written, sync = [], files.sync_file

    def full(file: Path) -> None:
        written.append(file)
        if len(written) > place:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    pytest.importorskip("pyarrow")
    monkeypatch.setattr(files, "sync_file", full)
    folder = tmp_path / "out"
    with pytest.raises(ValueError, match=rf"{folder}.*: cannot be written \(No space left on device\)"), locked(folder):
        write_report(folder, CONFIG, finished[0])
    whole = ["samples.png", "worst.png", "videos.parquet", "metrics.md"][:place]
    assert sorted(file.name for file in folder.glob("*")) == sorted(whole)
    monkeypatch.setattr(files, "sync_file", sync)
    with locked(folder):
        write_report(folder, CONFIG, finished[0])
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["n"] == 5


def test_one_evaluation_at_a_time_writes_into_a_folder(models: dict[str, str], tmp_path: Path):
    with (
        locked(tmp_path / "out"),
        pytest.raises(ValueError, match="out: another command is writing there"),
    ):
        evaluate(EvaluateConfig(**models, output=str(tmp_path / "out")))


def test_files_are_checked_before_pytorch_is_imported(tmp_path: Path):
    """In one process, so that this takes a second; nothing is left of the folder."""
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "model_index.json").write_text("{}")
    cases = {
        "clip=nowhere": "clip: nowhere: no such file or folder, and no name of `followyourpose download`",
        "detector=nowhere": "detector: nowhere: no such file or folder",
        "backend=mmpose": "hrnet: HF_HUB_OFFLINE is set" if find_spec("mmengine") else "backend mmpose: mmengine",
        "boxes=nowhere.onnx": "boxes: nowhere.onnx: no such file",
        "model=nowhere": "model: nowhere: no such file or folder",
        f"model={tmp_path / 'image'}": "an image model, expected the folder of a FollowYourPosePipeline",
        "image_model=nowhere": "image_model: nowhere: no such file or folder",
        "videos=nowhere": "videos: nowhere: no such file or folder",
        "num_videos=1025": "num_videos: got 1025, expected at most 1024",
        "num_videos=100001": "num_videos: got 100001, expected at most 100000",
    }
    code = f"""
import sys
from followyourpose.cli.main import main
for case in {list(cases)}:
    arguments = ["benchmark=puppet-bench-1", "num_frames=8", "output={tmp_path / "out"}", case]
    assert main(["evaluate", *arguments]) == 2, case
assert not {{"torch", "transformers", "diffusers"}} & sys.modules.keys()
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for line, reason in zip(result.stderr.splitlines(), cases.values(), strict=True):
        assert reason in line
    assert not (tmp_path / "out").exists()


def test_videos_that_memory_cannot_hold_are_refused():
    with pytest.raises(ConfigError, match=r"got 3 sets of 100000 videos of 1,000,000 frames, which take .* GiB"):
        check(EvaluateConfig(num_videos=100_000, num_frames=1_000_000))


def test_missing_packages_are_reported_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    check(EvaluateConfig())
    assert capsys.readouterr().out.splitlines() == [
        f'{part} is left out: it needs {package}; pip install -e ".[eval]"' for package, part in PACKAGES.items()
    ]


def test_the_jump_at_borders_is_that_over_elsewhere():
    frames = np.zeros((6, 4, 4, 3), np.uint8)
    frames[1], frames[2:4], frames[4:] = 2, 4, 10
    assert border_change(frames, [2, 4]) == (4.0, pytest.approx(2 / 3))
    for borders in ([], [1, 2, 3, 4, 5]):
        with pytest.raises(ValueError, match="borders in 6 frames"):
            border_change(frames, borders)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIPModel of 16-pixel images, with a tokenizer of letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = [c + end for c in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    vocabulary = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 8})
    )
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 54, "max_position_embeddings": 8, "bos_token_id": 52, "eos_token_id": 53}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    return folder


def test_features_have_length_one_and_equal_the_models_own(clip_folder: Path):
    features = ClipFeatures(clip_folder, batch_size=2)
    frames = np.random.default_rng(0).integers(256, size=(3, 16, 16, 3), dtype=np.uint8)
    images, texts = features.images(frames), features.captions(["ab", "cd", "a long text that is cut somewhere"])
    assert images.shape == texts.shape == (3, 12)
    np.testing.assert_allclose(np.linalg.norm(images, axis=-1), 1, rtol=1e-5)
    tokens = features.tokenizer(["ab", "cd"], padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        output = features.model(input_ids=tokens.input_ids, pixel_values=pixels)
    np.testing.assert_allclose(images, output.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(texts[:2], output.text_embeds.numpy(), atol=1e-5)


def test_features_take_frames_of_any_size_and_the_folders_statistics(clip_folder: Path):
    frames = np.random.default_rng(0).integers(256, size=(2, 24, 40, 3), dtype=np.uint8)
    plain = ClipFeatures(clip_folder).images(frames)
    assert plain.shape == (2, 12)
    (clip_folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    assert not np.allclose(plain, ClipFeatures(clip_folder).images(frames))
    (clip_folder / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="CLIPModel"):
        ClipFeatures(clip_folder / "nothing")


def without_projection(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_projection, "1 missing, e.g. visual_projection.weight"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"123"), "cannot be read as a CLIPModel"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read as a CLIPModel"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as a CLIPModel"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "cannot be read as a CLIPModel"),
        (lambda folder: (folder / "vocab.json").unlink(), "no tokenizer.json or vocab.json"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("[" * 100_000), "nested too deeply"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"image_mean": 1}'), "three numbers each"),
        (lambda folder: (folder / "preprocessor_config.json").write_text('{"image_std": [0, 0, 0]}'), "above 0"),
    ],
)
def test_a_damaged_clip_is_one_error(clip_folder: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str):
    damage(shutil.copytree(clip_folder, tmp_path / "clip"))
    with pytest.raises(ValueError, match=f"^{tmp_path / 'clip'}.*{reason}"):
        ClipFeatures(tmp_path / "clip")


@pytest.fixture(scope="module")
def models(clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders that an evaluation reads, of untrained models."""
    folder = tmp_path_factory.mktemp("models")
    image_model = write_image_model(folder / "image")
    FollowYourPosePipeline.from_image_model(image_model).save_pretrained(folder / "model")
    PuppetDetector(channels=(8, 8, 8, 8)).save_pretrained(folder / "detector")
    return {
        "model": str(folder / "model"),
        "image_model": str(image_model),
        "clip": str(clip_folder),
        "detector": str(folder / "detector"),
    }


def test_modes_of_long_videos_are_compared(models: dict[str, str], tmp_path: Path, capsys):
    settings = {"num_videos": 2, "batch_size": 2, "num_frames": 9, "num_inference_steps": 1, "device": "cpu"}
    long_video, modes = LongVideo(window=4), list(MODES)
    config = EvaluateConfig(**models, **settings, long_video=long_video, modes=modes, output=str(tmp_path / "out"))
    content = json.loads((evaluate(config) / "metrics.json").read_text(encoding="utf-8"))
    assert list(content["modes"]) == [*MODES, "real"] and content["borders"] == [4, 6, 8] and content["n"] == 2
    for numbers in content["modes"].values():
        low, high = numbers["border_jump_ci95"]
        assert low <= numbers["border_jump"] <= high and {"pck@0.1", "cs", "fc", "flicker"} <= numbers.keys()
    assert "border_jump" in content["definitions"] and (tmp_path / "out" / "samples.png").is_file()
    table = capsys.readouterr().out
    assert all(f"| {mode} " in table for mode in MODES) and "| 2 videos " in table
    with pytest.raises(ValueError, match="num_frames: got 4, one window, expected more than 4"):
        EvaluateConfig(**models, num_frames=4, long_video=long_video, modes=modes)


def test_the_whole_evaluation_runs_and_repeats_with_the_seed(models: dict[str, str], tmp_path: Path, capsys):
    results = []
    for output in ("a", "b"):
        config = EvaluateConfig(
            **models,
            num_videos=2,
            flicker_videos=1,
            num_frames=2,
            num_inference_steps=2,
            device="cpu",
            output=str(tmp_path / output),
        )
        results.append(json.loads((evaluate(config) / "metrics.json").read_text(encoding="utf-8")))
        assert results[-1].pop("settings")["output"] == config.output
    assert results[0] == results[1]
    # Nothing is trained: the new layers are identities and the pose encoder is silent.
    assert results[0]["pck@0.1"] == results[0]["pck_no_pose"]
    assert "pck@0.1" in capsys.readouterr().out


def test_a_run_of_generate_is_evaluated_as_it_is(models: dict[str, str], tmp_path: Path):
    """Its skeleton, the shipped sample, has its keypoints beside it; a caption of the puppet world is known as one."""
    settings = {
        "prompt": ["a cat", "A panda in the forest"],
        "num_frames": 3,
        "num_inference_steps": 1,
        "enlarge": 2,
        "seed": 7,
    }
    folder = generate_run(GenerateConfig(model=models["model"], output=str(tmp_path / "run"), **settings))
    config = EvaluateConfig(videos=str(folder), clip=models["clip"], detector=models["detector"], device="cpu")
    config.output, config.model = str(tmp_path / "out"), "nowhere"
    content = json.loads((evaluate(config) / "metrics.json").read_text(encoding="utf-8"))
    assert content["n"] == 2 and None not in (content["cs"], content["pa"], content["pck@0.1"], content["fc"])
    assert content["character_accuracy"] in (0, 1) and content["background_accuracy"] in (0, 1)
    assert content["undefined"]["character_accuracy"] == {
        "its prompt is no caption of one person of the puppet world": 1
    }
    assert "cs_real" not in content and "pck_ratio" not in content


def test_a_model_draws_the_samples_of_a_manifest_as_it_draws_the_benchmark(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
):
    """The benchmark on disk, without videos, gives the numbers of the benchmark."""
    write_benchmark(tmp_path / "bench", "puppet-bench-1", 2, size=32)
    settings = {"num_videos": 2, "num_inference_steps": 1, "device": "cpu", **models, "image_model": None}
    benchmark, videos = {"benchmark": "puppet-bench-1"}, {"videos": str(tmp_path / "bench")}
    results = []
    for name, source in (("a", benchmark), ("b", videos), ("c", benchmark | videos)):
        output = evaluate(EvaluateConfig(**settings, **source, output=str(tmp_path / name)))
        results.append(json.loads((output / "metrics.json").read_text(encoding="utf-8")))
    told = capsys.readouterr().out
    assert told.count("puppet-bench-1 has frames of 64 pixels, the model draws 32: compare no other size") == 1
    for name in ("cs", "pa", "pck@0.1", "fc", "cs_real", "pck_real", "pck_no_pose", "fc_no_pose"):
        assert results[0][name] == pytest.approx(results[1][name], abs=1e-4), name
    assert "flicker_before" not in results[0]
    # Captions name character and background; with the benchmark named, the places of bodies are there too.
    for name in METRICS:
        assert results[0][name] == pytest.approx(results[2][name], abs=1e-4), name
    assert results[1]["character_accuracy"] == results[2]["character_accuracy"] is not None


@pytest.mark.parametrize("change", [{"seed": 1001}, {"seed": 0}, {"prompt": "somebody else"}])
def test_videos_that_are_not_of_the_benchmark_are_refused(change: dict[str, object], tmp_path: Path):
    bench = write_benchmark(tmp_path / "bench", "puppet-bench-1", 1, size=32)
    row = json.loads((bench / "manifest.jsonl").read_text(encoding="utf-8"))
    (bench / "manifest.jsonl").write_text(json.dumps(row | change))
    with pytest.raises(ValueError, match=r"0000.json: got .*, expected a prompt of puppet-bench-1.*benchmark=null"):
        evaluate(EvaluateConfig(videos=str(bench), benchmark="puppet-bench-1", output=str(tmp_path / "out")))


def test_two_processes_evaluate_as_one_does(
    models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """Batches are drawn by either process, and kept: an evaluation that ends early goes on where it was."""
    settings = {"num_videos": 3, "batch_size": 1, "flicker_videos": 2, "num_frames": 2, "num_inference_steps": 1}
    alone, both = (EvaluateConfig(**models, **settings, output=str(tmp_path / name)) for name in ("alone", "both"))
    evaluate(alone)
    with monkeypatch.context() as patch:
        patch.setattr("followyourpose.evaluation.compare.write_report", lambda *_: os._exit(9))
        assert launch(evaluate, both) == [9, 0]
    assert len(list((tmp_path / "both" / "unfinished").glob("blend-shared-posed-3-*.npy"))) == 3
    monkeypatch.setattr("followyourpose.pipeline.pipeline.FollowYourPosePipeline.__call__", None)  # nothing is drawn
    assert launch(evaluate, both) == [0, 0]
    assert not (tmp_path / "both" / "unfinished").exists()
    for name in ("metrics.json", "metrics.md", "samples.png", "worst.png"):
        one, other = ((tmp_path / run / name).read_bytes().replace(b"alone", b"both") for run in ("alone", "both"))
        assert one == other, name
