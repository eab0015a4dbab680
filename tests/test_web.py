"""Requests and jobs of the page, without a server: controls act, limits hold, jobs stay apart, results reproduce."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import GifImagePlugin
from safetensors.torch import save_file

from followyourpose import FollowYourPosePipeline
from followyourpose.cli.main import main
from followyourpose.config import REPOSITORY, GenerateConfig, PoseConfig, load_config
from followyourpose.data.video_io import read_frames, write_gif, write_video
from followyourpose.generation.outputs import FORMS
from followyourpose.generation.skeletons import RawVideoError, open_skeleton
from followyourpose.pipeline.windows import LongVideo
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints
from followyourpose.pose.skeleton import LEFT, RIGHT
from followyourpose.web.controls import PRESETS, in_labels, preset, requested_config
from followyourpose.web.jobs import OVER, Cancelled, Report, Studio
from followyourpose.web.requests import Limits, check_upload, public, recipe
from tests.fixtures import randomise
from tests.poses import walking
from tests.tiny import identity_start, write_image_model

LIMITS = Limits(num_frames=24, upload_megabytes=2, upload_seconds=20, upload_frames=100, upload_side=640)
DRIVING = {
    "sample": "dance", "pose_source": "skeleton", "temporal_offset": 0, "stride": 1, "num_frames": 3,
    "skeleton_end": "stop", "fit": "cover", "crop_left": 0, "crop_right": 0, "crop_top": 0, "crop_bottom": 0,
    "upload": None,
}  # fmt: skip
DRAWING = {
    "prompt": "a cat", "negative_prompt": "", "seed": 0, "num_inference_steps": 2, "guidance_scale": 3.0,
    "pose_scale": 1.0, "scheduler": "ddim", "long_video_mode": "paper", "lora": "none", "lora_weight": 1.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> GenerateConfig:
    """A model of random weights, none zero, and a LoRA for it; videos of 32 x 32 pixels in windows of 3 frames."""
    folder = tmp_path_factory.mktemp("web")
    pipe = FollowYourPosePipeline.from_image_model(write_image_model(folder / "image-model"))
    randomise(pipe.unet)
    identity_start(pipe.pose_encoder)
    pipe.save_pretrained(folder / "model")
    layer = "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_v"
    down = 10 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    save_file(
        {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": down.T.contiguous()}, folder / "ink.safetensors"
    )
    return GenerateConfig(
        model=str(folder / "model"), prompt=["a cat", "a dog"], lora=str(folder / "ink.safetensors"), num_frames=3,
        num_inference_steps=2, guidance_scale=3.0, device="cpu", long_video=LongVideo(window=3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def studio(base: GenerateConfig, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(base, LIMITS, tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uploaded skeleton video of 20 frames, 48 x 64 pixels; all frames and all edges differ."""
    frames = np.zeros((20, 48, 64, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[2 + i : 5 + i, 4 : 30 + i] = LEFT
        frame[30:46, 40 + i : 43 + i] = RIGHT
    path = tmp_path_factory.mktemp("upload") / "my dance.mp4"
    write_video(path, frames, 8)
    return path


@pytest.fixture(scope="module")
def known(studio: Studio) -> Callable[[GenerateConfig], np.ndarray]:
    """Results by config, each generated once for all tests."""
    results: dict[str, np.ndarray] = {}

    def result(config: GenerateConfig) -> np.ndarray:
        if repr(config) not in results:
            results[repr(config)] = result_of(studio, config)
        return results[repr(config)]

    return result


def config_of(studio: Studio, **changes: Any) -> GenerateConfig:
    return requested_config(studio.config, studio.limits, DRIVING | DRAWING | changes)


def result_of(studio: Studio, config: GenerateConfig, owner: str = "somebody") -> np.ndarray:
    """Generate, and return the frames (f, H, W, 3) of the result."""
    for report in studio.generate(owner, config):
        if isinstance(report, Path):
            (pair,) = report.glob("*-with-skeleton.mp4")
            return read_frames(report / pair.name.replace("-with-skeleton", ""))
    raise AssertionError("the job gave no result")


# ---- every control reaches the model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"temporal_offset": 5}, [5, 6, 7]),
        ({"stride": 4}, [0, 4, 8]),
        ({"num_frames": 5}, [0, 1, 2, 3, 4]),
        ({"temporal_offset": 18, "skeleton_end": "loop"}, [18, 19, 18]),
        ({"temporal_offset": 18, "skeleton_end": "hold"}, [18, 19, 19]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_slider_of_time_chooses_the_frames_of_preview_and_result(
    studio: Studio, known: Callable[..., np.ndarray], skeletons: Path, change: dict[str, Any], expected: list[int]
) -> None:
    before = config_of(studio, upload=str(skeletons))
    config = config_of(studio, upload=str(skeletons), **change)
    assert studio.preview(config)[1] == open_skeleton(config).indices == expected
    assert not np.array_equal(studio.preview(config)[0], studio.preview(before)[0])
    video = result_of(studio, config)
    assert len(video) == len(expected) and not np.array_equal(video, known(before))


@pytest.mark.parametrize("edge", ["left", "right", "top", "bottom"])
def test_a_crop_slider_cuts_its_edge_off_preview_and_result(
    studio: Studio, known: Callable[..., np.ndarray], skeletons: Path, edge: str
) -> None:
    before = config_of(studio, upload=str(skeletons))
    config = config_of(studio, upload=str(skeletons), **{f"crop_{edge}": 20})
    assert vars(config.crop) == {"left": 0, "right": 0, "top": 0, "bottom": 0} | {edge: 20}
    assert not np.array_equal(studio.preview(config)[0], studio.preview(before)[0])
    assert not np.array_equal(result_of(studio, config), known(before))


def test_the_share_of_a_skeleton_that_is_cut_off_is_known(studio: Studio, skeletons: Path) -> None:
    covered, padded = (studio.preview(config_of(studio, upload=str(skeletons), fit=fit)) for fit in ("cover", "pad"))
    assert covered[2] > 0.02 and padded[2] == 0 and not np.array_equal(covered[0], padded[0])


@pytest.mark.parametrize(
    ("change", "before"),
    [
        ({"prompt": "a dog"}, {}),
        ({"negative_prompt": "a dog"}, {}),
        ({"seed": 1}, {}),
        ({"num_inference_steps": 3}, {}),
        ({"guidance_scale": 6.0}, {}),
        ({"pose_scale": 0.0}, {}),
        ({"scheduler": "euler"}, {}),
        ({"long_video_mode": "blend"}, {"num_frames": 5}),
        ({"lora": "ink"}, {}),
        ({"lora": "ink", "lora_weight": 0.3}, {"lora": "ink"}),
        ({"sample": "left"}, {}),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_control_changes_the_result_and_setting_it_back_gives_the_first_again(
    studio: Studio, known: Callable[..., np.ndarray], change: dict[str, Any], before: dict[str, Any]
) -> None:
    first = known(config_of(studio, **before))
    assert not np.array_equal(result_of(studio, config_of(studio, **before | change)), first)
    np.testing.assert_array_equal(result_of(studio, config_of(studio, **before)), first)


def test_settings_without_a_control_keep_the_operators_values(studio: Studio) -> None:
    config = config_of(studio)
    own = ("pose_guidance", "noise", "height", "fps", "enlarge", "model", "device", "dtype", "retarget", "style")
    assert all(getattr(config, key) == getattr(studio.config, key) for key in own)
    assert config.lora is None and config.skeleton is None and config.num_videos_per_prompt == 1


def test_people_are_offered_for_sentences_where_there_are_several(studio: Studio, tmp_path: Path) -> None:
    (crowd,) = studio.preview(config_of(studio, sample="two")).crowds
    assert crowd.number == 0 and list(crowd.boxes) == [0, 1] and crowd.picture.shape == (480, 480, 3)
    assert crowd.boxes[0][2] < crowd.boxes[1][2] and all(0 <= side <= 1 for box in crowd.boxes.values() for side in box)
    assert not np.array_equal(
        crowd.picture[:, :240].max(-1) > 99,
        open_skeleton(config_of(studio, sample="two")).frames(480, 480)[0, :, :240].max(-1) > 99,
    )
    for sample in ("dance", "left"):
        assert not studio.preview(config_of(studio, sample=sample)).crowds
    left, right = (walking(3, x, 0.0) for x in (20, 70))
    frames = [[left[0]], [], [right[2]]]  # nobody shares a frame
    write_keypoints(tmp_path / "turns.json", ClipKeypoints(100, 100, 8, frames, [[4], [], [9]]))
    crowds = studio.preview(config_of(studio, upload=str(tmp_path / "turns.json"))).crowds
    assert [(each.number, list(each.boxes)) for each in crowds] == [(0, [4]), (2, [9])]


def test_people_and_prompts_by_frame_are_lines_that_make_the_same_video_by_the_command(
    studio: Studio, known: Callable[..., np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {"prompt": "a cat\n 2: a dog", "people": "1: a dog\n0:", "transition": 1}
    config = config_of(studio, sample="two", **lines)
    assert (config.prompt, config.people, config.transition) == ({0: "a cat", 2: "a dog"}, {1: "a dog"}, 1)
    assert config_of(studio, sample="two", people="0:").people is None
    video = result_of(studio, config)
    for fewer in ({"prompt": "a cat"}, {"people": ""}):
        assert not np.array_equal(known(config_of(studio, sample="two", **lines | fewer)), video)
    monkeypatch.chdir(tmp_path)
    Path("video.yaml").write_text(recipe(config, config.skeleton), encoding="utf-8")
    assert main(["generate", "video.yaml", "output=again"]) == 0
    np.testing.assert_array_equal(read_frames(next(Path("again").glob("*[0-9a-z].mp4"))), video)


# ---- the same video by the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"lora": "ink", "lora_weight": 0.5, "scheduler": "unipc", "seed": 7}])
def test_the_settings_make_the_same_video_by_the_command(
    studio: Studio, skeletons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    change |= {"prompt": 'a cat: "in" the ${snow}, [yes] #1 \\', "upload": str(skeletons), "crop_top": 3, "stride": 2}
    config = config_of(studio, **change)
    video = result_of(studio, config)
    monkeypatch.chdir(tmp_path)  # where the client has its own file
    Path("my dance.mp4").write_bytes(skeletons.read_bytes())
    Path("video.yaml").write_text(recipe(config, skeletons.name), encoding="utf-8")
    assert str(skeletons.parent) not in Path("video.yaml").read_text(encoding="utf-8")
    assert main(["generate", "video.yaml", "output=again"]) == 0
    record = json.loads(Path("again/run.json").read_text(encoding="utf-8"))
    assert record["videos"][0]["prompt"] == change["prompt"]
    np.testing.assert_array_equal(read_frames(Path("again") / record["videos"][0]["files"][0]), video)


def test_the_recipe_has_the_prompt_and_no_defaults(studio: Studio) -> None:
    changes = {"prompt": "a cat", "lora": None, "device": None, "long_video": LongVideo()}
    text = recipe(replace(studio.config, model="checkpoints/puppet", **changes), None)
    assert text == "prompt: a cat\nnum_frames: 3\nnum_inference_steps: 2\nguidance_scale: 3.0\n"
    assert recipe(GenerateConfig(prompt=""), None) == "prompt: ''\n"


# ---- limits and uploads ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "x" * 10_000}, "prompt: got 10000 characters, expected at most 1000"),
        ({"negative_prompt": "x" * 1001}, "negative_prompt: got 1001 characters"),
        ({"num_frames": 25}, "num_frames: got 25, expected at most 24"),
        ({"num_inference_steps": 101}, "num_inference_steps: got 101, expected at most 100"),
        ({"prompt": "half of \ud83d"}, "prompt: got half of a character"),
        ({"prompt": None}, "prompt: got null, expected text"),
        ({"seed": None}, "seed: got null, expected a whole number"),
        ({"seed": 0.5}, "seed: got 0.5, expected a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan"),
        ({"crop_top": "all"}, "crop.top: got 'all', expected a whole number"),
        ({"lora": "ink", "lora_weight": None}, "lora.*weight"),
        ({"people": "0: " + "x" * 1000}, "people: got 1003 characters, expected at most 1000"),
        ({"people": "0: a cat\n0: a dog"}, "people: got 0: twice, expected each number once"),
        ({"people": "0: half of \ud83d"}, "people: got half of a character"),
        ({"prompt": "2: a cat"}, "prompt: begins at frame 2, expected a value for frame 0"),
        ({"prompt": "a cat\n3: a dog"}, "prompt: got frame 3, expected at most 2, the video's last"),
        ({"transition": -1}, "transition: got -1"),
    ],
    ids=lambda value: list(value)[-1] if isinstance(value, dict) else "",
)
def test_settings_beyond_the_limits_or_of_another_type_are_refused(
    studio: Studio, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        config_of(studio, **change)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("num_frames: got 65, expected at most 64", "Number of frames: got 65, expected at most 64"),
        ("crop.top: got 'all'", "Crop top, pixels: got 'all'"),
        ("a.mp4: too short for temporal_offset 3", "a.mp4: too short for “First frame” 3"),
        ("skeleton: a, with pose.source=raw its people are found first", "Driving video: a, press “Find its people”"),
        ("a.mp4: or a raw video with pose.source=raw", "a.mp4: or a video of people and “Find its people”"),
    ],
)  # fmt: skip
def test_messages_use_the_words_of_the_labels(message: str, shown: str) -> None:
    assert in_labels(message) == shown


def test_presets_are_the_configs_own_a_fast_one_and_the_released_one(base: GenerateConfig) -> None:
    fast, own, released = (preset(name, base, Limits()) for name in PRESETS)
    assert own == {"num_inference_steps": 2, "guidance_scale": 3.0, "scheduler": "ddim"}
    shipped = {
        name: load_config(GenerateConfig, REPOSITORY / "configs" / f"{name}.yaml")
        for name in ("puppet/fast", "sd14/generate")
    }
    assert all(value == getattr(shipped["sd14/generate"], key) for key, value in released.items())
    assert all(fast[key] == getattr(shipped["puppet/fast"], key) for key in ("num_inference_steps", "scheduler"))
    assert preset("released", base, Limits(num_inference_steps=30))["num_inference_steps"] == 30


def test_the_page_states_its_limits() -> None:
    limits = Limits(1, 2, 3, 4, 5, 6, 7, 100, 1000, 8, 9, 10)
    numbers = re.findall(r"(?<!mp)\d+", limits.summary().split("up to", 1)[1])
    assert numbers == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "empty.mp4: is empty, damaged, or not one of .mp4"),
        ("text.mp4", b"no video at all, but text", "text.mp4: is empty, damaged, or not one of .mp4"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "list.mp4: is empty, damaged"),
        ("concat.mkv", b"ffconcat version 1.0\nfile dance.mp4\n", "concat.mkv: is empty, damaged"),
        ("program.sh", b"echo", "program.sh: is empty, damaged"),
        ("broken.json", b'{"version": 1', "broken.json"),
        ("header.gif", b"GIF89a", "header.gif: cannot be read as frames"),
    ],
)
def test_files_that_are_no_videos_are_refused_by_name_and_without_a_folder(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        check_upload(tmp_path / name, LIMITS)
    assert str(tmp_path) not in str(error.value)


def test_keypoints_of_other_tools_are_taken_and_a_size_where_they_have_none(studio: Studio, tmp_path: Path) -> None:
    person = {"pose_keypoints_2d": [32.0, 24.0, 1.0] * 18}
    for name, content, size in (
        ("dwpose.json", [{"people": [person], "canvas_width": 64, "canvas_height": 48}] * 5, ""),
        ("openpose.json", {"people": [person]}, "64x48"),
    ):
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        assert check_upload(tmp_path / name, LIMITS).num_frames == (1 if size else 5)
        config = config_of(studio, upload=str(tmp_path / name), skeleton_end="hold", skeleton_size=size)
        assert studio.preview(config)[1] == ([0, 0, 0] if size else [0, 1, 2])
    with pytest.raises(ValueError, match="openpose.json: OpenPose keypoints without the size of their frames"):
        studio.preview(replace(config, skeleton_size=None))


def test_a_truncated_video_and_one_without_frames_are_refused(tmp_path: Path, skeletons: Path) -> None:
    content = skeletons.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "none.mp4").write_bytes(content[: content.index(b"moov") - 4])  # its header alone
    for name in ("cut.mp4", "none.mp4"):
        with pytest.raises(ValueError, match=name) as error:
            check_upload(tmp_path / name, LIMITS)
        assert str(tmp_path) not in str(error.value)


def test_the_frames_of_a_gif_are_decoded_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (100, 8, 8, 3), np.uint8)
    write_gif(tmp_path / "many.gif", frames, 10)
    steps, seek = [], GifImagePlugin.GifImageFile._seek
    monkeypatch.setattr(
        GifImagePlugin.GifImageFile, "_seek", lambda self, *args: (steps.append(args), seek(self, *args))[1]
    )
    assert check_upload(tmp_path / "many.gif", LIMITS).num_frames == 100
    assert len(steps) < 4 * 100


@pytest.mark.parametrize(
    "content",
    [
        b"[]," * 5_000_000 + b"[]]}",
        b"[{}]," * 3_000_000 + b"[]]}",
    ],
    ids=["lists", "mappings"],
)
def test_large_keypoints_need_little_memory(tmp_path: Path, content: bytes) -> None:
    """A process for each: its peak is to be measured."""
    (tmp_path / "large.json").write_bytes(b'{"width":64,"height":64,"fps":100,"frames":[' + content)
    code = """
import sys
from pathlib import Path
from followyourpose.web.requests import Limits, check_upload
try:
    check_upload(Path(sys.argv[1]), Limits())
except ValueError as error:
    print(error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])  # of this program alone
"""
    command = [sys.executable, "-c", code, str(tmp_path / "large.json")]
    reason, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert reason.startswith("large.json: ") and int(peak) < 1_500_000  # kB


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("lora[0]: /srv/models/ink.safetensors: no such file", "lora[0]: ink.safetensors: no such file"),
        ("cannot identify image file '/tmp/page-1/files/a.gif'", "cannot identify image file 'a.gif'"),
        (f"{REPOSITORY}/checkpoints/puppet: no such folder", "puppet: no such folder"),
        (r"C:\Users\me\a.gif: damaged", "a.gif: damaged"),
        ("fps: got 1/3, expected and/or; https://example.com/a/b", "fps: got 1/3, expected and/or; https://example.com/a/b"),
    ],
)  # fmt: skip
def test_messages_for_clients_have_no_folders(message: str, shown: str) -> None:
    assert public(message) == shown


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"upload_frames": 19}, "got 20 frames, expected at most 19"),
        ({"upload_seconds": 2}, "got 2.5 seconds, expected at most 2"),
        ({"upload_side": 63}, "got 64 pixels on its longer side, expected at most 63"),
        ({"upload_megabytes": 0}, "megabytes, expected at most 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_video_beyond_the_limits_is_refused(skeletons: Path, limits: dict[str, int], reason: str) -> None:
    assert check_upload(skeletons, LIMITS).num_frames == 20
    with pytest.raises(ValueError, match=f"my dance.mp4: .*{reason}"):
        check_upload(skeletons, replace(LIMITS, **limits))


def test_too_few_frames_are_reported_without_a_folder(studio: Studio, skeletons: Path) -> None:
    for call in (studio.preview, lambda config: result_of(studio, config)):
        with pytest.raises(ValueError, match="my dance.mp4: the clip has 20 frames, too short") as error:
            call(config_of(studio, upload=str(skeletons), num_frames=21))
        assert str(skeletons.parent) not in str(error.value)


# ---- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_reports_every_step_of_every_window_and_shows_frames_on_the_way(studio: Studio) -> None:
    reports = list(studio.generate("somebody", config_of(studio, num_frames=5)))
    steps = [report for report in reports if isinstance(report, Report)]
    assert [step.done for step in steps] == [0, 1, 2, 3, 4] and {step.total for step in steps} == {4}
    assert steps[1].picture.dtype == np.uint8 and steps[1].seconds_left > 0 and steps[-1].seconds_left == 0
    assert isinstance(reports[-1], Path) and not reports[-1].exists()  # it existed while the iterator was open


def test_a_result_has_its_names_its_forms_and_the_video_under_its_skeleton(studio: Studio) -> None:
    for report in studio.generate("somebody", config_of(studio, seed=4)):
        if isinstance(report, Path):
            names = {file.name for file in report.glob("a-cat-4*")}
            plain, over = (read_frames(report / f"a-cat-4{form}") for form in (".mp4", OVER))
    assert names == {f"a-cat-4{form}" for form in (*FORMS, OVER)}
    assert plain.shape == over.shape and not np.array_equal(plain, over)


def test_the_time_of_a_job_is_known_after_a_trial_and_grows_with_its_work(base: GenerateConfig, tmp_path: Path) -> None:
    studio = Studio(base, LIMITS, tmp_path)
    assert studio.estimate(base) is None
    studio.measure()
    seconds = studio.estimate(base)
    assert seconds > 0
    for change, factor in (({"num_inference_steps": 20}, 10), ({"guidance_scale": 1.0}, 0.5), ({"num_frames": 6}, 3)):
        assert studio.estimate(replace(base, **change)) == pytest.approx(factor * seconds), change
    along = Studio(replace(base, num_frames=9, prompt={0: "a cat", 8: "a dog"}, transition=0), LIMITS, tmp_path)
    along.measure()
    assert along.estimate(base) > 0


def test_a_word_that_an_unchosen_lora_teaches_is_named_with_it(base: GenerateConfig, tmp_path: Path) -> None:
    studio = Studio(base, LIMITS, tmp_path)
    assert studio.read(["a cat of ink"], "none")[1] == {"ink": "ink"}
    assert "ink" not in studio.read(["a cat of ink"], "ink")[0].unknown


def test_a_cancelled_job_ends_at_its_next_step_and_leaves_nothing(studio: Studio) -> None:
    config = config_of(studio, num_inference_steps=90)
    steps = 0
    with pytest.raises(Cancelled):
        for report in studio.generate("me", config):
            steps = report.done
            studio.cancel("somebody else")
            if steps == 2:
                studio.cancel("me")
    assert 2 <= steps < 80
    assert not list(studio.folder.iterdir())


def test_a_client_that_is_gone_cancels_its_job(studio: Studio) -> None:
    job = studio.generate("me", config_of(studio, num_inference_steps=100))
    next(job), next(job)
    job.close()
    result_of(studio, config_of(studio))
    while list(studio.folder.iterdir()):  # the job ends in its own thread
        time.sleep(0.05)


def test_a_job_that_fails_leaves_the_model_to_the_next(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = result_of(studio, config_of(studio))
    with pytest.raises(ValueError, match="height"):
        result_of(studio, replace(config_of(studio), height=33))
    with pytest.raises(ValueError, match="no such file"):
        result_of(studio, replace(config_of(studio), lora="none.safetensors"))
    np.testing.assert_array_equal(result_of(studio, config_of(studio)), first)


def test_a_raw_video_is_extracted_and_drives(base: GenerateConfig, tmp_path: Path) -> None:
    from followyourpose.puppets.world import render_scene, sample_scene

    frames, _ = render_scene(sample_scene(np.random.default_rng(0)), 3, 64, 64)
    write_video(tmp_path / "raw.mp4", frames, 8)
    (tmp_path / "jobs").mkdir()
    studio = Studio(replace(base, pose=PoseConfig(backend="puppet")), LIMITS, tmp_path / "jobs")
    for report in studio.extract("somebody", tmp_path / "raw.mp4"):
        if isinstance(report, Path):
            assert {file.name for file in report.iterdir()} == {"skeleton.mp4", "keypoints.json", "overlay.mp4"}
            assert read_frames(report / "skeleton.mp4").any()
            with studio.chosen(tmp_path / "raw.mp4", report / "keypoints.json", []) as nobody:
                assert not read_frames(nobody / "skeleton.mp4").any()
                assert not any(read_keypoints(nobody / "keypoints.json").frames)
        else:
            assert report.total == 3
    raw = config_of(studio, upload=str(tmp_path / "raw.mp4"), pose_source="raw")
    picture, numbers, *_ = studio.preview(raw)
    assert numbers == [0, 1, 2]
    assert (np.abs(picture.astype(int) - RIGHT).max(-1) < 80).any()  # a skeleton over the frames
    assert not np.array_equal(result_of(studio, raw), result_of(studio, config_of(studio)))
    for call in (studio.preview, lambda config: result_of(studio, config)):
        with pytest.raises(RawVideoError, match=r"skeleton: raw.mp4: got a raw video, .* with pose.source=raw"):
            call(config_of(studio, upload=str(tmp_path / "raw.mp4")))
    assert not list(studio.folder.iterdir())
