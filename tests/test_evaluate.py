"""The protocol, with stand-ins for model, detector and CLIP that know the real frames."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from followyourpose.config import EvaluateConfig, LongVideoConfig
from followyourpose.evaluation.evaluate import (
    Sample,
    compare,
    contact_sheet,
    evaluate,
    format_table,
    generate,
    measure,
    noise_of,
    sample_videos,
    write_report,
)
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.long_videos import compare_modes
from followyourpose.evaluation.metrics import border_change
from followyourpose.long_video import MODES
from followyourpose.pipeline import FollowYourPosePipeline
from followyourpose.pose.detector import PuppetDetector
from followyourpose.puppets.world import HELD_OUT_MOTIONS, HELD_OUT_PAIRS, captions
from tests.tiny import write_image_model

SIDE = 32
CONFIG = EvaluateConfig(num_videos=5, flicker_videos=2, num_frames=3, batch_size=2, num_inference_steps=1)


class Oracle:
    """A pipeline that draws the real frames of the skeleton it is given, and another video's without one."""

    unet = SimpleNamespace(config=SimpleNamespace(sample_size=4, in_channels=2))
    vae_scale_factor = SIDE // 4

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.real = {s.tobytes(): f for x in samples for s, f in zip(x.skeleton, x.frames, strict=True)}
        self.calls: list[dict] = []

    def __call__(self, prompt: list[str], skeleton: np.ndarray | None, **settings) -> SimpleNamespace:
        self.calls.append({"prompt": prompt, "skeleton": skeleton, **settings})
        if skeleton is None:
            wrong = [next(s.frames for s in self.samples if s.scene.caption != p) for p in prompt]
            return SimpleNamespace(videos=np.stack(wrong) / 255)
        return SimpleNamespace(videos=np.stack([[self.real[f.tobytes()] for f in clip] for clip in skeleton]) / 255)


class KnowsFrames:
    """A detector and a CLIP that look frames up: keypoints and captions of the real ones."""

    def __init__(self, samples: list[Sample]) -> None:
        self.known = {f.tobytes(): (k, s) for s in samples for f, k in zip(s.frames, s.keypoints, strict=True)}
        self.all = captions((1,))

    def detect(self, frames: np.ndarray) -> np.ndarray:
        return np.stack([self.known[frame.tobytes()][0] for frame in frames])

    def images(self, frames: np.ndarray) -> np.ndarray:
        return self.captions([self.known[frame.tobytes()][1].scene.caption for frame in frames])

    def captions(self, texts: list[str]) -> np.ndarray:
        return np.eye(len(self.all))[[self.all.index(text) for text in texts]]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return sample_videos(CONFIG, SIDE, SIDE)


def run(samples: list[Sample]) -> tuple[dict, np.ndarray, Oracle]:
    knows, pipe = KnowsFrames(samples), Oracle(samples)
    return *compare(CONFIG, samples, pipe, pipe, knows, knows), pipe


def test_scenes_are_held_out_and_repeat_with_the_seed(samples):
    again = sample_videos(CONFIG, SIDE, SIDE)
    for a, b in zip(samples, again, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.skeleton, b.skeleton)
        assert (a.scene.character, a.scene.background) in HELD_OUT_PAIRS
        assert len(a.scene.actors) == 1 and a.scene.actors[0].motion in HELD_OUT_MOTIONS
    assert len({s.scene.seed for s in samples}) == len(samples)


def test_a_model_that_draws_the_real_frames_reaches_the_ceiling(samples):
    results, videos, _ = run(samples)
    assert results["pck@0.1"] == results["pck_real"] == results["pck_ratio"] == 1.0
    assert results["pa"] == pytest.approx(1.0)
    assert results["cs"] == results["fc"] == pytest.approx(100)
    assert results["character_accuracy"] == results["background_accuracy"] == 1.0
    assert results["flicker"] == results["flicker_real"]
    assert results["n"] == len(samples)
    assert np.array_equal(videos, np.stack([s.frames for s in samples]))


def test_poses_of_other_videos_score_low(samples):
    results, _, _ = run(samples)
    assert results["pck_no_pose"] < 0.5 and results["pck_no_pose_ratio"] < 0.5
    assert results["cs_no_pose"] == 0
    knows = KnowsFrames(samples)
    shuffled = measure(np.stack([s.frames for s in samples[1:] + samples[:1]]), samples, knows, knows)
    assert shuffled.pck.mean() < 0.5 and shuffled.summary()["pa"] < 0.3


def test_all_sets_start_from_the_same_noise(samples):
    _, _, pipe = run(samples)
    start = {}
    for name, skeletons, frames in (("posed", True, 3), ("unposed", False, 3)):
        calls = [c for c in pipe.calls if (c["skeleton"] is not None) == skeletons and c["num_frames"] == frames]
        start[name] = torch.cat([c["latents"] for c in calls[:3]])
    assert torch.equal(start["posed"], start["unposed"])
    images = [c for c in pipe.calls if c["num_frames"] == 1]
    assert [len(c["prompt"]) for c in images] == [6, 6]  # two videos of three frames, for either kind of noise
    assert torch.equal(
        images[1]["latents"], noise_of(pipe, CONFIG, "shared", [0, 1]).transpose(1, 2).reshape(6, 2, 1, 4, 4)
    )
    assert not torch.equal(images[0]["latents"], images[1]["latents"])


def test_a_videos_noise_does_not_depend_on_its_batch(samples):
    pipe = Oracle(samples)
    together = noise_of(pipe, CONFIG, "independent", [0, 1, 2])
    assert together.shape == (3, 2, 3, 4, 4)
    assert torch.equal(together[2:], noise_of(pipe, CONFIG, "independent", [2]))
    shared = noise_of(pipe, CONFIG, "shared", [0])
    assert torch.equal(shared[:, :, 0], shared[:, :, 2]) and not torch.equal(together[:, :, 0], together[:, :, 2])


def test_frames_sampled_as_images_come_back_in_order(samples):
    videos = generate(Oracle(samples), samples, CONFIG, "shared", as_images=True)
    assert np.array_equal(videos, np.stack([s.frames for s in samples]))


def test_the_report_holds_every_number_and_its_interval(samples, tmp_path: Path):
    results, videos, _ = run(samples)
    write_report(tmp_path, CONFIG, results, samples, videos)
    content = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("cs", "pa", "pck@0.1", "fc", "flicker", "character_accuracy", "background_accuracy", "pck_ratio"):
        low, high = content[f"{name}_ci95"]
        assert low <= content[name] + 1e-9 and content[name] <= high + 1e-9
    for name in ("flicker_before", "flicker_after"):
        assert set(content[name]) == {"independent", "shared"}
    assert content["settings"]["num_videos"] == 5 and "torch" in content["versions"]
    assert (tmp_path / "samples.png").stat().st_size > 0
    assert contact_sheet(samples[:2], videos[:2]).shape == (2 * 3 * SIDE, 3 * SIDE, 3)
    table = format_table(results)
    assert all(name in table for name in ("pck@0.1", "flicker with shared noise", "over 5 videos"))


def test_results_are_never_overwritten(tmp_path: Path):
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ValueError, match="never overwritten"):
        evaluate(EvaluateConfig(output=str(tmp_path)))


def test_what_cannot_be_measured_is_refused_before_any_model_is_read(tmp_path: Path):
    with pytest.raises(ValueError, match="num_frames: got 1"):
        evaluate(EvaluateConfig(output=str(tmp_path), num_frames=1))
    with pytest.raises(ValueError, match="detector"):
        evaluate(EvaluateConfig(output=str(tmp_path), detector=str(tmp_path)))


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
    long_video, modes = LongVideoConfig(window=4), list(MODES)
    config = EvaluateConfig(**models, **settings, long_video=long_video, modes=modes, output=str(tmp_path / "out"))
    content = json.loads((compare_modes(config) / "metrics.json").read_text())
    assert list(content["modes"]) == [*MODES, "real"] and content["borders"] == [4, 6, 8] and content["n"] == 2
    for numbers in content["modes"].values():
        low, high = numbers["border_jump_ci95"]
        assert low <= numbers["border_jump"] <= high and {"pck@0.1", "cs", "fc", "flicker"} <= numbers.keys()
    assert "border_jump" in content["definitions"] and (tmp_path / "out" / "samples.png").is_file()
    table = capsys.readouterr().out
    assert all(mode in table for mode in MODES) and "over 2 videos" in table
    with pytest.raises(ValueError, match="num_frames: got 4, one window, expected more than 4"):
        compare_modes(EvaluateConfig(**models, num_frames=4, long_video=long_video, modes=modes))
    with pytest.raises(ValueError, match="long_video.mode: got 'papers'"):
        compare_modes(EvaluateConfig(**models, modes=["papers"]))


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
        results.append(json.loads((evaluate(config) / "metrics.json").read_text()))
        assert results[-1].pop("settings")["output"] == config.output
    assert results[0] == results[1]
    # Nothing is trained: the new layers are identities and the pose encoder is silent.
    assert results[0]["pck@0.1"] == results[0]["pck_no_pose"]
    assert "pck@0.1" in capsys.readouterr().out
