"""`generate`: a folder with every promised file, or one line that names the mistake and nothing left behind."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from followyourpose.config import (
    REPOSITORY,
    ConfigError,
    CropConfig,
    GenerateConfig,
    PoseConfig,
    RetargetConfig,
    build_config,
    load_config,
)
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.evaluation.sources import read_collection
from followyourpose.generation.checks import check_settings, with_prompts
from followyourpose.generation.generate import generate
from followyourpose.generation.skeletons import SAMPLE, cut_off, open_skeleton, open_skeletons
from followyourpose.generation.unknown_words import learned_words, print_unknown_words
from followyourpose.pipeline.image_model import load_tokenizer
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import PUPPETS, person


@pytest.fixture
def model(world: Path) -> Path:
    """A pipeline's folder with random weights; its videos are 32 x 32 pixels."""
    return world / "video-model"


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two keypoints files of three frames, with one person each: one at the left, one at the right."""
    for name, x, size in (("left", 25, 100), ("right", 150, 200)):
        pose = person(x=x, feet=0.95 * size, height=0.6 * size)
        write_keypoints(tmp_path / f"{name}.json", ClipKeypoints(size, size, 8, [[pose]] * 3))
    return [str(tmp_path / f"{name}.json") for name in ("left", "right")]


@pytest.fixture
def settings(model: Path, tmp_path: Path) -> dict[str, Any]:
    """Keys of a config that runs in a second."""
    output = str(tmp_path / "runs" / "first")
    return {"model": str(model), "prompt": "a cat", "num_frames": 3, "num_inference_steps": 1, "output": output}


def test_a_run_writes_every_form_of_every_video(settings: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    changes = {"prompt": ["A cat, here!", "a dog"], "num_videos_per_prompt": 2, "enlarge": 2, "seed": 5}
    folder = generate(GenerateConfig(**settings | changes))
    assert folder == Path(settings["output"])
    record = json.loads((folder / "run.json").read_text())
    assert [(v["prompt"], v["seed"]) for v in record["videos"]] == [
        ("A cat, here!", 5), ("A cat, here!", 6), ("a dog", 5), ("a dog", 6)
    ]  # fmt: skip
    names = [name for video in record["videos"] for name in video["files"]]
    assert sorted(file.name for file in folder.iterdir()) == sorted([*names, "index.html", "run.json"])
    assert names[0] == "00-a-cat-here-5.mp4"
    for video in record["videos"]:
        mp4, gif, sheet, pair = (folder / name for name in video["files"])
        info = probe(mp4)
        assert (info.num_frames, info.fps, info.height, info.width) == (3, 8.0, 64, 64)
        assert probe(gif).height == 64 and probe(pair).width == 128
        assert Image.open(sheet).size == (3 * 68, 68)
    assert record["settings"]["height"] == 32 and record["settings"]["crop"]["left"] == 0
    assert record["settings"]["num_inference_steps"] == 1
    assert {"python", "followyourpose", "torch", "diffusers"} <= record["versions"].keys()
    assert record["seconds"] > 0 and record["skeletons"][0]["frames"] == [0, 1, 2]
    assert str(folder) in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # no temporary folder stays


def test_a_prompt_and_seed_give_the_same_video_alone_or_among_others(settings: dict[str, Any], tmp_path: Path) -> None:
    many = generate(GenerateConfig(**settings | {"prompt": ["a dog", "a cat"], "num_videos_per_prompt": 2}))
    alone = generate(GenerateConfig(**settings | {"seed": 1, "output": str(tmp_path / "alone")}))
    np.testing.assert_array_equal(read_frames(many / "01-a-cat-1.mp4"), read_frames(alone / "00-a-cat.mp4"))


def test_every_prompt_meets_every_skeleton_and_every_seed(settings: dict[str, Any], two: list[str]) -> None:
    changes = {"prompt": ["a cat", "a dog"], "num_videos_per_prompt": 2, "skeleton": [two, two[1]], "num_frames": 1}
    folder = generate(GenerateConfig(**settings | changes))
    record = json.loads((folder / "run.json").read_text())
    assert {(v["prompt"], v["skeleton"], v["seed"]) for v in record["videos"]} == set(
        itertools.product(("a cat", "a dog"), ("left + right", "right"), (0, 1))
    )
    assert [each["files"] for each in record["skeletons"]] == [two, two[1:]]
    page = (folder / "index.html").read_text()
    for video in record["videos"]:
        assert all((folder / file).is_file() and file in page for file in video["files"])
    assert len({file for video in record["videos"] for file in video["files"]}) == 4 * len(record["videos"]) == 32
    assert "01-a-dog-00-left-right-1.mp4" in page


def test_a_skeleton_gives_the_same_video_alone_or_among_others(
    settings: dict[str, Any], two: list[str], tmp_path: Path
) -> None:
    many = generate(GenerateConfig(**settings | {"skeleton": [two[0], two]}))
    alone = generate(GenerateConfig(**settings | {"skeleton": [two], "output": str(tmp_path / "alone")}))
    pair = read_frames(many / "00-a-cat-01-left-right-with-skeleton.mp4")
    np.testing.assert_array_equal(pair, read_frames(alone / "00-a-cat-with-skeleton.mp4"))


def test_prompts_are_a_string_or_a_list(model: Path) -> None:
    assert check_settings(GenerateConfig(model=str(model), prompt="a")) == ["a"]
    assert check_settings(GenerateConfig(model=str(model), prompt=["a", "b"])) == ["a", "b"]


def test_prompts_come_from_a_text_file_a_line_each(settings: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  a naïve dog \r\n", encoding="utf-8-sig")
    config = with_prompts(GenerateConfig(**settings | {"prompt": str(file)}))
    assert config.prompt == ["a cat", "a naïve dog"]
    assert with_prompts(config) is config
    for text, reason in (("\n \n", "got no text, expected a prompt a line"), (None, "prompts.txt: cannot be read")):
        file.unlink() if text is None else file.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            generate(GenerateConfig(**settings | {"prompt": str(file)}))


def test_a_run_writes_the_outputs_that_are_wanted(settings: dict[str, Any]) -> None:
    folder = generate(GenerateConfig(**settings | {"outputs": ["sheet", "gif"]}))
    names = ["00-a-cat-sheet.png", "00-a-cat.gif"]
    assert sorted(file.name for file in folder.iterdir()) == [*names, "index.html", "run.json"]
    assert json.loads((folder / "run.json").read_text())["videos"][0]["files"] == names
    page = (folder / "index.html").read_text()
    assert "<video" not in page and '<img width="32" height="32" alt="frames" src="00-a-cat.gif">' in page
    assert page.count("00-a-cat-sheet.png") == 1
    with pytest.raises(ValueError, match="outputs: got .*, expected mp4 among them"):
        read_collection(folder)


def test_a_skeleton_that_the_frames_cut_off_is_told_and_fits_with_padding(
    settings: dict[str, Any], capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    wide = settings | {"height": 32, "width": 64}
    generate(GenerateConfig(**wide))
    assert "dance: frames of 32 x 64 pixels cut" in capsys.readouterr().out
    generate(GenerateConfig(**wide | {"fit": "pad", "output": str(tmp_path / "padded")}))
    generate(GenerateConfig(**settings | {"output": str(tmp_path / "square")}))
    assert "pixels cut" not in capsys.readouterr().out


def test_what_lies_beside_the_frames_is_measured_for_keypoints_and_drawings_alike(two: list[str]) -> None:
    shares = []
    for skeleton in (None, str(SAMPLE.with_suffix(".json")), [two]):
        (source,) = open_skeletons(GenerateConfig(skeleton=skeleton, num_frames=3))
        assert cut_off(source, 64, 64) == cut_off(source, 128, 128) == 0
        shares.append(cut_off(source, 64, 128))
    assert shares[0] == pytest.approx(shares[1], abs=0.03) and min(shares) > 0.2


def test_words_that_a_small_vocabulary_lacks_are_told(settings: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    generate(GenerateConfig(**settings | {"prompt": ["a unicorn on Mars", "a"], "style": "inky"}))
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("words that it has learned, among others: ") for line in lines) == 1
    told = [line for line in lines if "never trained" in line]
    assert told == ["'a unicorn on Mars': this model was never trained on unicorn, on, Mars; expect nonsense there"]
    print_unknown_words(["a unicorn"], SimpleNamespace(tokenizer=load_tokenizer(Path(settings["model"]))), ["unicorn"])
    assert capsys.readouterr().out == "", "a LoRA taught it"


def test_learned_words_are_whole_ones() -> None:
    words = learned_words(load_tokenizer(REPOSITORY / "checkpoints" / "puppet"))
    assert {"astronaut", "panda", "moon", "street", "purple"} <= set(words)
    assert not {"ach", "reet", "rple", "x"} & set(words), "pieces of words"


def test_people_have_words_of_their_own_by_file_or_by_track(
    settings: dict[str, Any], two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [{"skeleton": file, "prompt": prompt} for file, prompt in zip(two, ("a dog", "a cat"), strict=True)]
    by_file = generate(GenerateConfig(**settings | {"people": words, "style": "red"}))
    assert "; a dog; a cat  (" in capsys.readouterr().out
    clips = [read_keypoints(file) for file in two]
    people = [
        [pose * (1, 1, 1), other * (0.5, 0.5, 1)] for (pose,), (other,) in zip(*(c.frames for c in clips), strict=True)
    ]
    write_keypoints(tmp_path / "tracks.json", ClipKeypoints(100, 100, 8, people, [[4, 7]] * 3))
    tracks = {"people": {4: "a dog", 7: "a cat"}, "skeleton": str(tmp_path / "tracks.json"), "style": "red"}
    by_track = generate(GenerateConfig(**settings | tracks | {"output": str(tmp_path / "tracks")}))
    plain = generate(GenerateConfig(**settings | {"skeleton": [two], "output": str(tmp_path / "plain")}))
    away = tmp_path / "away.json"
    write_keypoints(away, ClipKeypoints(100, 100, 8, [[pose + (500, 0, 0)] for (pose,) in clips[0].frames]))
    one, other, without = (read_frames(folder / "00-a-cat.gif" if folder is plain else next(folder.glob("*.gif")))
                           for folder in (by_file, by_track, plain))  # fmt: skip
    assert abs(one.astype(int) - other).max() <= 8 and (one != without).any()  # keypoints keep three decimals
    for wrong, reason in (
        (tracks | {"people": {4: "a dog", 5: "a cat"}}, "tracks.json: got track 5, expected one of 4, 7 in the frames"),
        (tracks | {"skeleton": two[0]}, "left.json: its people have no track ids"),
        ({"people": words[:1], "skeleton": two[1]}, "skeleton: got .*right.json', expected none: each of `people`"),
        ({"people": [words[0] | {"skeleton": tracks["skeleton"]}]}, r"people\[0\]: .*got 2 people in frame 0"),
        ({"people": [{"prompt": "a dog"}]}, r"people\[0\]: no skeleton, expected a skeleton and a prompt"),
        ({"people": []}, "people: got none"),
        ({"people": [words[0], {"prompt": "a cat"}]}, r"people\[1\]: no skeleton, expected a skeleton and a prompt"),
        (tracks | {"people": {4: "a", 7: "b", 8: "c"}}, "tracks.json: got track 8, expected one of 4, 7"),
        ({"people": [words[0] | {"prompt": {2: "a dog"}}]}, r"people\[0\]: begins at frame 2, expected a value for"),
        ({"people": [words[0] | {"prompt": {0: "a", 3: "b"}}]}, r"people\[0\]: got frame 3, expected at most 2"),
        (
            {"people": [words[0], {"prompt": "a cat", "skeleton": "dance.mp4"}]},
            r"people\[1\].skeleton: got 'dance.mp4', ex",
        ),
        ({"people": [words[0], words[1] | {"skeleton": str(away)}]}, r"people\[1\].skeleton: nobody is in the picture"),
        ({"people": [words[0] | {"lora": "none"}]}, r"people\[0\].lora\[0\]: none: no such file"),
    ):
        with pytest.raises(ValueError, match=reason):
            generate(GenerateConfig(**settings | {"output": str(tmp_path / "wrong")} | wrong))


def test_prompts_and_numbers_by_frame_are_drawn_under_the_contact_sheet(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    config = tmp_path / "along.yaml"
    config.write_text(
        "prompt: {0: a cat, 2: a dog}\nguidance_scale: {0: 2, 1: 3.5}\npose_scale: 0.5\n", encoding="utf-8"
    )
    others = [f"{key}={value}" for key, value in settings.items() if key != "prompt"]
    loaded = load_config(GenerateConfig, config, others)
    assert loaded.prompt == {0: "a cat", 2: "a dog"} and loaded.guidance_scale == {0: 2.0, 1: 3.5}
    folder = generate(loaded)
    (sheet,) = folder.glob("*-sheet.png")
    assert sheet.name == "00-a-cat-then-a-dog-sheet.png"
    plain = generate(GenerateConfig(**settings | {"output": str(tmp_path / "plain")}))
    height, taller = (Image.open(file).height for file in (plain / "00-a-cat-sheet.png", sheet))
    assert taller == height + 2 * 44
    assert load_config(GenerateConfig, config, [*others, "prompt={0: a fox}"]).prompt == {0: "a fox"}  # not merged
    for wrong, reason in (
        ("prompt={0: a, 3: b}", "prompt: got frame 3, expected at most 2"),
        ("pose_scale={1: 0.5}", "pose_scale: begins at frame 1"),
        ("guidance_scale={x: 2}", "guidance_scale: got 'x' before a colon, expected a whole number"),
    ):
        with pytest.raises(ConfigError, match=reason):
            load_config(GenerateConfig, config, [*others, wrong])


def test_loras_act_by_frame_and_by_person(settings: dict[str, Any], two: list[str], tmp_path: Path) -> None:
    layer = "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_v"
    down = 10 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    file = str(tmp_path / "style.safetensors")
    save_file({f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": down.T.contiguous()}, file)

    def drawn(name: str, **how: Any) -> np.ndarray:
        folder = generate(
            GenerateConfig(**settings | {"output": str(tmp_path / name), "outputs": ["gif", "sheet"]} | how)
        )
        sheets[name] = Image.open(next(folder.glob("*-sheet.png"))).height
        return read_frames(next(folder.glob("*.gif"))).astype(int)

    sheets: dict[str, int] = {}
    people = [{"skeleton": skeleton, "prompt": "a cat"} for skeleton in two]
    without = drawn("without", people=people)
    by_frame = drawn("by-frame", people=people, lora={"path": file, "weight": {0: 1.0, 2: 0.0}})
    own = [people[0] | {"lora": {"path": file, "weight": {0: 1.0, 1: 0.5}}}, people[1]]
    by_person = drawn("by-person", people=own)
    assert (by_frame != without).any() and (by_person != without).any() and (by_person != by_frame).any()
    assert [sheets[name] - sheets["without"] for name in ("by-frame", "by-person")] == [44, 44]
    own[0]["lora"]["weight"] = {0: 1.0, 5: 0.0}
    for how, reason in (
        ({"lora": {"path": file, "weight": {1: 0.0}}}, r"lora\[0\].weight: begins at frame 1"),
        ({"people": own}, r"people\[0\].lora\[0\].weight: got frame 5, expected at most 2"),
    ):
        with pytest.raises(ValueError, match=reason):
            drawn("wrong", **how)


def test_a_style_is_put_after_each_prompt(settings: dict[str, Any], tmp_path: Path) -> None:
    style = {"prompt": ["a cat", "a dog"], "style": ", in ink", "num_frames": 1}
    folder = generate(GenerateConfig(**settings | style))
    prompts = [video["prompt"] for video in json.loads((folder / "run.json").read_text())["videos"]]
    assert prompts == ["a cat, in ink", "a dog, in ink"]
    written = {"prompt": "a dog, in ink", "num_frames": 1, "output": str(tmp_path / "written")}
    again = generate(GenerateConfig(**settings | written))
    np.testing.assert_array_equal(
        read_frames(again / "00-a-dog-in-ink.mp4"), read_frames(folder / "01-a-dog-in-ink.mp4")
    )


def test_a_lora_changes_the_video_and_is_recorded(settings: dict[str, Any], tmp_path: Path) -> None:
    layer = "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_v"
    down = 10 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    weights = {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": down.T.contiguous()}
    save_file(weights, tmp_path / "style.safetensors")
    videos = []
    for number, weight in enumerate((0.0, 1.0, 1.0)):
        lora = [{"path": str(tmp_path / "style.safetensors"), "weight": weight}]
        folder = generate(GenerateConfig(**settings | {"lora": lora, "output": str(tmp_path / f"{number}")}))
        assert json.loads((folder / "run.json").read_text())["settings"]["lora"] == lora
        videos.append(read_frames(folder / "00-a-cat.mp4"))
    plain = read_frames(generate(GenerateConfig(**settings)) / "00-a-cat.mp4")
    np.testing.assert_array_equal(videos[0], plain)
    np.testing.assert_array_equal(videos[1], videos[2])
    assert (videos[1] != plain).any()


def test_without_output_the_folder_is_named_by_date_and_prompt(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "2024-02-29-120000")
    first, second = (generate(GenerateConfig(**settings | {"output": None, "num_frames": 1})) for _ in range(2))
    assert first == Path("outputs/2024-02-29-120000-a-cat") and (first / "run.json").is_file()
    assert second == Path("outputs/2024-02-29-120000-a-cat-2") and (second / "run.json").is_file()


def test_an_image_model_is_inflated(settings: dict[str, Any], world: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(GenerateConfig(**settings | {"model": str(world / "image-model")})).is_dir()
    assert "the skeleton has no effect" in capsys.readouterr().out


def test_a_failing_run_leaves_nothing_behind(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("followyourpose.generation.generate.stream", fail)
    with pytest.raises(KeyboardInterrupt):
        generate(GenerateConfig(**settings))
    assert not Path(settings["output"]).parent.exists()


# ---- bad input, refused before the model is loaded -------------------------------------------------------------------


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("followyourpose.generation.generate.load_pipeline", load)


def refusal(settings: dict[str, Any]) -> str:
    """The one line with which a run is refused."""
    with pytest.raises(ValueError) as error:
        generate(build_config(GenerateConfig, settings))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prompt": 5}, "prompt: got 5, expected text or a mapping or a list"),
        ({"prompt": {"a": "b"}}, "prompt: got 'a' before a colon, expected a whole number"),
        ({"prompt": None}, "prompt: got null"),
        ({"prompt": []}, "prompt: got an empty list"),
        ({"prompt": ["a", 5]}, "prompt[1]: got 5, expected text"),
        ({"pose_guidance": "all"}, "pose_guidance: got 'all', expected one of both, conditional"),
        ({"noise": "white"}, "noise: got 'white', expected one of independent, mixed, shared"),
        ({"dtype": "int8"}, "dtype: got 'int8', expected one of auto, float32, float16, bfloat16"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0, expected at least 1"),
        ({"height": 0}, "height: got 0"),
        ({"fps": 0.0}, "fps: got 0.0"),
        ({"fps": float("nan")}, "fps: got nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale: got inf"),
        ({"model": "no/model"}, "model: no/model: no such file or folder"),
        ({"model": str(Path(__file__).parent)}, "has no model_index.json"),
        ({"skeleton": "none.mp4"}, "skeleton: none.mp4: no such file or folder, expected a video (.mp4"),
        ({"skeleton": __file__}, "not an accepted type of file"),
        ({"stride": 0}, "stride: got 0"),
        ({"skeleton_end": "bounce"}, "skeleton_end: got 'bounce', expected one of stop, loop, pingpong, hold"),
        ({"temporal_offset": 99}, "dance.mp4: the clip has 32 frames, too short for temporal_offset 99"),
        ({"num_frames": 40}, "dance.mp4: the clip has 32 frames, too short for temporal_offset 0 + num_frames 40"),
        ({"crop": {"left": 200, "right": 200}}, "dance.mp4: the clip is 256 x 256 pixels: crop left 200"),
        ({"pose": {"source": "video"}}, "pose.source: got 'video', expected one of skeleton, raw"),
        ({"pose": {"source": "raw"}}, "skeleton: got none, expected a video of people"),
        ({"pose": {"backend": "hrnet"}}, "pose.backend: got 'hrnet', expected one of light, puppet, rtmlib, mmpose"),
        ({"pose": {"style": "dots"}}, "pose.style: got 'dots', expected one of coco, coco_bgr, openpose"),
        ({"pose": {"people": 0}}, "pose.people: got 0"),
        ({"pose": {"min_confidence": 0}}, "pose.min_confidence: got 0.0, expected more than 0"),
        ({"retarget": {"scale": 2.0}}, "dance.mp4 is drawn already, expected a keypoints .json, or"),
        (
            {"skeleton": str(SAMPLE), "pose": {"source": "raw"}, "retarget": {"limbs": {"leg": 2.0}}},
            "retarget.limbs: got 'leg'",
        ),
        ({"skeleton": []}, "skeleton: got an empty list"),
        ({"skeleton": 5}, "skeleton: got 5, expected text or a list or null"),
        ({"skeleton": [str(SAMPLE), None]}, "skeleton[1]: got null, expected text or a list"),
        ({"skeleton": [str(SAMPLE), "none.mp4"]}, "skeleton: none.mp4: no such file"),
        (
            {"skeleton": [str(SAMPLE), [str(SAMPLE)]]},
            "dance.mp4', expected keypoints .json files, to draw them into one",
        ),
        ({"skeleton": [[]]}, "skeleton[0]: got an empty list, expected keypoints .json files"),
        ({"lora": "none.safetensors"}, "lora[0]: none.safetensors: no such file"),
        ({"lora": [{"path": __file__, "weight": "a"}]}, "lora[0].weight: got 'a', expected a number"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    assert reason in refusal(settings | changes)
    assert not Path(settings["output"]).parent.exists()


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("name", "content"), [("text.mp4", b"no video"), ("empty.mp4", b""), ("bad.gif", b"GIF"), ("bad.json", b"{")]
)
def test_an_unreadable_skeleton_is_named(settings: dict[str, Any], tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert str(tmp_path / name) in refusal(settings | {"skeleton": str(tmp_path / name)})


@pytest.mark.usefixtures("no_loading")
def test_results_are_never_overwritten(settings: dict[str, Any]) -> None:
    output = Path(settings["output"])
    output.mkdir(parents=True)
    (output / "run.json").write_text("earlier results")
    assert f"{output}: is there already" in refusal(settings)
    assert (output / "run.json").read_text() == "earlier results"


@pytest.mark.usefixtures("no_loading")
def test_an_output_that_cannot_be_written_is_refused_first(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(settings | {"output": str(tmp_path / "file" / "run")})
    assert "is there already" in refusal(settings | {"output": str(tmp_path / "file")})


def test_an_empty_folder_may_be_the_output(settings: dict[str, Any]) -> None:
    Path(settings["output"]).mkdir(parents=True)
    assert (generate(GenerateConfig(**settings)) / "run.json").is_file()


# ---- checks before anything is loaded --------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_loading")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"height": 33}, "height: got 33 pixels, expected a multiple of 4; the nearest: 32 or 36"),
        ({"width": 2}, "width: got 2 pixels, expected a multiple of 4; the nearest: 4"),
        ({"attention": "fast"}, "attention: got 'fast', expected one of "),
        ({"attention": "flash"}, "attention: got 'flash', but flash_attn is not installed"),
        ({"attention": "xformers"}, 'attention: xformers is not installed; pip install -e ".[xformers]"'),
        ({"device": "gpu"}, "device: got 'gpu'"),
        (
            {"pose": {"source": "raw", "smooth": 5}, "skeleton": str(SAMPLE)},
            "smooth: scipy is not installed; pip install -e",
        ),
        (
            {"pose": {"source": "raw", "weights": "none.tflite"}, "skeleton": str(SAMPLE)},
            "weights: none.tflite: no such file or folder, and no name of `followyourpose download`",
        ),
        ({"fps": 0.001}, "fps: got 0.001, expected at least 0.1"),
        ({"enlarge": 999}, "enlarge: got 999, expected at most 16"),
        ({"height": 8192, "enlarge": 4}, "height, width, enlarge: got files of 32768 x 128 pixels, expected at most"),
        ({"width": 8192, "enlarge": 2}, "height, width, enlarge: got files of 64 x 16384 pixels, expected at most"),
        (
            {"num_frames": 1_000_000, "height": 4096, "width": 4096, "skeleton_end": "loop"},
            "num_frames: got 1000000 of 4096 x 4096 pixels, whose noise alone takes 4,194,304 MB of memory, expected",
        ),
        (
            {"num_frames": 100_000, "num_videos_per_prompt": 100_000, "skeleton_end": "hold"},
            "got 100000 x 100000 frames of 32 x 32 pixels, which take 204,800.0 MB or more, expected at most",
        ),
        ({"seed": 2**64}, "seed: got 18446744073709551616, expected at most"),
        ({"prompt": "half a \ud83d"}, "prompt: got 'half a \\ud83d', expected text in Unicode"),
        ({"prompt": ["a", "half a \ud83d"]}, "prompt[1]: got 'half a \\ud83d', expected text in Unicode"),
        ({"negative_prompt": "\udc00"}, "negative_prompt: got '\\udc00', expected text in Unicode"),
        ({"style": "\udc00"}, "style: got '\\udc00', expected text in Unicode"),
        ({"output": "a\0b"}, "output: got 'a\\x00b', expected a path without null characters"),
    ],
)
def test_settings_that_cannot_be_served_are_refused_before_the_model_is_loaded(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reason: str
) -> None:
    found = importlib.util.find_spec
    missing = ("scipy", "flash_attn", "xformers")
    for module in ("common.checks", "generation.checks"):
        find = f"followyourpose.{module}.find_spec"
        monkeypatch.setattr(find, lambda name: None if name in missing else found(name))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=10**11, free=10**11))
    assert reason in refusal(settings | changes)
    assert not Path(settings["output"]).parent.exists()


def test_a_refusal_takes_neither_torch_nor_diffusers(settings: dict[str, Any]) -> None:
    """Their imports take seconds."""
    arguments = [f"{key}={value}" for key, value in (settings | {"height": 33}).items()]
    code = f"""import sys
from followyourpose.cli.main import main
assert main(["generate", *{arguments}]) == 2
assert not {{"torch", "diffusers", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# ---- text that is taken as it is -------------------------------------------------------------------------------------

LITERAL = [
    "a robot #1", "batman: the movie", "${oc.env:HOME} and {braces}", "no", "1e3", "", "two\nlines\ttab",
    "\x1b[2J\x00<b>",
]  # fmt: skip


def test_prompts_are_recorded_and_read_back_as_they_were_given(
    settings: dict[str, Any], capsys: pytest.CaptureFixture
) -> None:
    text = {"prompt": LITERAL, "negative_prompt": "no #2: ${x}", "style": "", "num_frames": 1}
    config = build_config(GenerateConfig, settings | text)
    folder = generate(config)
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert [video["prompt"] for video in record["videos"]] == record["settings"]["prompt"] == LITERAL
    again = build_config(GenerateConfig, record["settings"])
    assert again == replace(config, height=32, width=32)
    page, printed = (folder / "index.html").read_text(encoding="utf-8"), capsys.readouterr().out
    assert "batman: the movie" in page and "${oc.env:HOME} and {braces}" in page and "\ufffd[2J\ufffd&lt;b&gt;" in page
    for shown in (page, printed):
        assert not set("\x00\x1b") & set(shown)
    assert [video["files"][0] for video in record["videos"]][4:] == [
        "04-1e3.mp4", "05-video.mp4", "06-two-lines-tab.mp4", "07-2j-b.mp4"
    ]  # fmt: skip


def test_names_of_files_that_are_no_text_are_shown_with_replacements(
    settings: dict[str, Any], tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture
) -> None:
    """Linux lets files have names that are no UTF-8; Python reads them with surrogates."""
    odd = Path(two[0]).rename(tmp_path / os.fsdecode(b"l\xe4ft\n.json"))
    output = str(tmp_path / os.fsdecode(b"\xe4"))
    folder = generate(GenerateConfig(**settings | {"skeleton": [str(odd), two[1]], "num_frames": 1, "output": output}))
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["skeletons"][0]["files"] == record["settings"]["skeleton"][:1] == [str(odd)]
    assert "skeleton l\ufffdft" in (folder / "index.html").read_text(encoding="utf-8")
    assert "(l\ufffdft" in capsys.readouterr().out


# ---- the skeleton ----------------------------------------------------------------------------------------------------


def test_the_shipped_sample_is_one_person_who_moves() -> None:
    info = probe(SAMPLE)
    assert (info.num_frames, info.fps, info.height, info.width) == (32, 8.0, 256, 256)
    lit = read_frames(SAMPLE).max(-1) > 100
    assert all(120 < np.ptp(np.nonzero(frame)[0]) < 256 for frame in lit)
    assert (lit[:16] != lit[8]).any(axis=(1, 2)).sum() == 15


def test_keypoints_are_drawn_at_the_size_of_the_run(tmp_path: Path) -> None:
    people = [np.random.default_rng(i).uniform((20, 10, 1), (80, 90, 1), (17, 3)).round(3) for i in range(2)]
    write_keypoints(tmp_path / "k.json", ClipKeypoints(100, 100, 8, [[], people[:1], people]))
    frames = open_skeleton(GenerateConfig(skeleton=str(tmp_path / "k.json"), num_frames=3)).frames(50, 50)
    assert frames.shape == (3, 50, 50, 3) and frames[0].max() == 0
    half = [np.column_stack([(p[:, :2] + 0.5) / 2 - 0.5, p[:, 2]]) for p in people]
    np.testing.assert_array_equal(frames[2], render_skeleton(half, 50, 50))


def test_a_skeleton_is_named_after_its_file_or_the_folder_of_extract_pose(two: list[str], tmp_path: Path) -> None:
    (tmp_path / "dance").mkdir()
    found = Path(two[0]).rename(tmp_path / "dance" / "keypoints.json")
    sources = open_skeletons(GenerateConfig(skeleton=[str(found), [str(found), two[1]]], num_frames=1))
    assert [source.name for source in sources] == ["dance", "dance + right"]


def test_people_of_several_files_are_drawn_into_one_frame(two: list[str]) -> None:
    """Each file is resized by itself: here one has half the size of the other."""
    (both,) = open_skeletons(GenerateConfig(skeleton=[two], num_frames=3))
    people = [person(x=12, feet=47, height=30), person(x=37, feet=47, height=30)]
    drawn = render_skeleton(people, 50, 50)
    assert both.frames(50, 50).shape == (3, 50, 50, 3)
    assert np.abs(both.frames(50, 50)[1].astype(int) - drawn).mean() < 4
    alone = [open_skeletons(GenerateConfig(skeleton=path, num_frames=3))[0].frames(50, 50) for path in two]
    np.testing.assert_array_equal(both.frames(50, 50), np.maximum(*alone))


def test_sampling_and_crop_reach_the_skeleton(tmp_path: Path) -> None:
    clip = np.zeros((10, 32, 32, 3), np.uint8)
    clip[:, :, 16:] = (20 * np.arange(10))[:, None, None, None]
    write_video(tmp_path / "s.mp4", clip, fps=8)
    config = GenerateConfig(
        skeleton=str(tmp_path / "s.mp4"), temporal_offset=1, stride=4, num_frames=5, skeleton_end="pingpong",
        crop=CropConfig(left=16, top=16),
    )  # fmt: skip
    frames = open_skeleton(config).frames(8, 8)
    np.testing.assert_allclose(frames.mean((1, 2, 3)), [20, 100, 180, 100, 20], atol=4)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A video of a puppet, of 12 frames."""
    scene = sample_scene(np.random.default_rng(1), two=0)
    write_video(tmp_path / "raw.mp4", render_scene(scene, 12, 64, 64)[0], fps=8)
    return tmp_path / "raw.mp4"


def test_a_raw_video_drives_with_the_poses_found_in_it(settings: dict[str, Any], raw: Path, tmp_path: Path) -> None:
    """The frames that are used are looked at, and what was found drives as its keypoints file does."""
    used = {"temporal_offset": 2, "stride": 3}
    folder = generate(GenerateConfig(**settings | used, skeleton=str(raw), pose=PUPPETS))
    assert {file.name for file in (folder / "pose").iterdir()} == {"keypoints.json", "skeleton.mp4", "overlay.mp4"}
    assert len(read_keypoints(folder / "pose" / "keypoints.json").frames) == 7  # from 2 to 8
    used_frames = {"name": "raw", "files": [str(raw)], "frames": [2, 5, 8]}
    assert json.loads((folder / "run.json").read_text())["skeletons"] == [used_frames]
    keypoints = {"skeleton": str(folder / "pose" / "keypoints.json"), "stride": 3, "output": str(tmp_path / "again")}
    again = generate(GenerateConfig(**settings | keypoints))
    np.testing.assert_array_equal(read_frames(again / "00-a-cat.mp4"), read_frames(folder / "00-a-cat.mp4"))
    pair = read_frames(again / "00-a-cat-with-skeleton.mp4")
    assert pair[:, :, :32].max() > 100  # a skeleton is there
    np.testing.assert_array_equal(pair, read_frames(folder / "00-a-cat-with-skeleton.mp4"))


def test_a_raw_video_that_cannot_be_read_leaves_nothing_behind(settings: dict[str, Any], raw: Path) -> None:
    pose = {"source": "raw", "weights": "none"}
    assert "weights: none: no such file" in refusal(settings | {"skeleton": str(raw), "pose": pose})
    assert not Path(settings["output"]).parent.exists()


def test_the_drawing_of_keypoints_follows_the_settings(tmp_path: Path) -> None:
    pose = person(x=50, feet=95, height=80, confidence=0.4)
    write_keypoints(tmp_path / "k.json", ClipKeypoints(100, 100, 8, [[pose]]))

    def frame(**settings: Any) -> np.ndarray:
        config = GenerateConfig(skeleton=str(tmp_path / "k.json"), num_frames=1, **settings)
        return open_skeleton(config).frames(100, 100)[0]

    np.testing.assert_array_equal(
        frame(pose=PoseConfig(style="openpose")), render_skeleton([pose], 100, 100, style="openpose")
    )
    assert frame(pose=PoseConfig(min_confidence=0.5)).max() == 0
    smaller = person(x=50, feet=95, height=40, confidence=0.4)
    drawn = frame(retarget=RetargetConfig(scale=0.5)).any(-1)
    assert np.ptp(np.nonzero(drawn)[0]) < 60
    write_keypoints(tmp_path / "other.json", ClipKeypoints(100, 100, 8, [[smaller]]))
    other = frame(retarget=RetargetConfig(reference=str(tmp_path / "other.json")))
    assert np.abs(other.astype(int) - render_skeleton([smaller], 100, 100)).mean() < 2
