"""Contracts of the whole package, most read from its code: who may import whom, and what the public API says."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import followyourpose
from followyourpose import FollowYourPosePipeline, PoseEncoder, VideoUNet
from followyourpose.config import EvaluateConfig, GenerateConfig, TrainConfig, load_config
from followyourpose.data.batch import Batch, to_pixels, to_skeleton
from followyourpose.data.video_io import read_frames, stream_frames, video_writer, write_video
from followyourpose.evaluation.evaluate import evaluate
from followyourpose.generation.extract_pose import extract_pose
from followyourpose.generation.generate import generate
from followyourpose.models.inflate import inflate
from followyourpose.models.weights import from_released, to_released
from followyourpose.pipeline.pipeline import FollowYourPoseOutput
from followyourpose.pose.detector import PuppetDetector
from followyourpose.pose.estimate import PoseEstimator, open_estimator
from followyourpose.pose.render import render_skeleton
from followyourpose.pose.retarget import retarget
from followyourpose.pose.skeleton import flip_keypoints
from followyourpose.puppets.dataset import write_dataset
from followyourpose.study.make import make_study
from followyourpose.study.score import score_study, wilson_interval
from followyourpose.training.components import export
from followyourpose.training.loop import train
from followyourpose.training.objectives import Denoise
from followyourpose.training.trainable import select_trainable

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "followyourpose"
ROOMS = ("followyourpose", "scripts", "data_prep", "tests")
MODULES = {
    ".".join(file.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(PACKAGE.rglob("*.py"))
}

# Room of the package -> the other rooms that it may import. Networks, data and poses know nothing of one another, nor
# of configs: each can be read, tested and used by itself.
FOR_ALL = {"common", "hub"}  # imports nothing of this package
MAY_IMPORT: dict[str, set[str]] = {
    "followyourpose": set(),
    "common": set(),
    "hub": set(),
    "models": set(),
    "data": set(),
    "pose": set(),
    "pipeline": {"models", "data", "pose"},  # the last two for skeletons in files
    "config": {"pipeline.schedule", "pipeline.windows"},
    "puppets": {"pose", "data", "config", "training"},
    "generation": {"config", "data", "models", "pipeline", "pose"},
    "training": {"config", "data", "generation", "models", "pipeline", "pose"},
    "evaluation": {"config", "data", "generation", "models", "pipeline", "pose", "puppets"},
    "study": {"config", "data", "pose"},
    "inspection": {"data", "pose"},
    "web": {"config", "data", "generation", "pipeline", "pose"},
    "comfyui": {"config", "data", "generation", "pipeline", "pose"},
    "cli": {
        "comfyui", "config", "evaluation", "generation", "inspection", "models", "pipeline", "pose", "puppets", "study",
        "training", "web",
    },
    "__main__": {"cli"},
}  # fmt: skip


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def room_of(module: str) -> str:
    """followyourpose.models.unet -> models; the package's own __init__ is the room `followyourpose`."""
    return (module.split(".") + ["followyourpose"])[1] if "." in module else module


def may_import(room: str, module: str) -> bool:
    """Whether a room may import a module: its own, common's, or one of the rooms and modules in its rule."""
    rule = MAY_IMPORT[room] | FOR_ALL | {room}
    return room_of(module) in rule or module.partition(".")[2] in rule


def imports_of(file: Path) -> set[str]:
    """The modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: line {node.lineno}: a relative import hides what it leads to"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inner}
    return {name for name in found if name.split(".")[0] == "followyourpose"}


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_imports_go_one_way() -> None:
    for module, file in MODULES.items():
        room = room_of(module)
        assert room in MAY_IMPORT, f"{module}: no rule says what it may import; add one to MAY_IMPORT"
        for imported in imports_of(file):
            assert may_import(room, imported), f"{module} imports {imported}"


def test_nothing_lies_loose_at_the_packages_root() -> None:
    assert {file.name for file in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_nothing_but_the_entry_points_imports_the_command_line() -> None:
    importing = {module for module, file in MODULES.items() if "followyourpose.cli.main" in imports_of(file)}
    assert importing == {"followyourpose.__main__", "followyourpose.cli"}


@pytest.mark.parametrize("file", sorted((REPOSITORY / "data_prep").glob("*.py")), ids=lambda file: file.stem)
def test_data_preparation_uses_data_and_poses_only(file: Path) -> None:
    allowed = {"cli"} if file.stem == "puppets" else {"common", "config", "data", "hub", "pose"}
    assert {room_of(imported) for imported in imports_of(file)} <= allowed
    assert ast.get_docstring(parsed(file))


def test_the_rules_of_import_have_no_circle() -> None:
    order: list[str] = []
    while rest := MAY_IMPORT.keys() - set(order):
        free = [room for room in rest if {rule.partition(".")[0] for rule in MAY_IMPORT[room]} <= set(order)]
        assert free, f"each of {sorted(rest)} needs another of them"
        order += free


def run_python(code: str, folder: Path) -> None:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n{code}"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    code = "import followyourpose\nassert not {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)"
    run_python(code, tmp_path)


def test_every_module_imports_without_optional_packages_and_does_nothing(tmp_path: Path) -> None:
    """Nothing happens at import: no file, no download, no change of torch's global state."""
    hosted = [
        f"followyourpose.comfyui.{name}" for name in ("nodes", "nodes_people", "nodes_pose", "schema")
    ]  # read by ComfyUI
    hosted += [] if find_spec("triton") else ["followyourpose.models.fused_norm"]  # read only where Triton is
    names = [name for name in MODULES if not name.endswith("__main__") and name not in hosted]
    code = f"""
for name in ("torchvision", "torchmetrics", "gradio", "rtmlib", "mmpose"):
    sys.modules[name] = None  # importing it is an error then
import importlib, socket, torch
def refuse(*_): raise AssertionError("a connection at import")
socket.socket.connect = refuse
def state(): return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads(), torch.initial_seed()
before, random = state(), torch.random.get_rng_state()
for name in {names}:
    importlib.import_module(name)
assert state() == before and torch.equal(torch.random.get_rng_state(), random)
"""
    run_python(code, tmp_path)
    assert not list(tmp_path.iterdir())


# ---- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "configs").rglob("*.yaml")), ids=lambda file: f"{file.parent.name}/{file.stem}"
)
def test_every_shipped_config_loads_and_says_what_it_is_for(file: Path) -> None:
    schemas = dict.fromkeys(("generate", "released", "fast", "people", "demo"), GenerateConfig) | dict.fromkeys(
        ("evaluate", "benchmark", "long_video"), EvaluateConfig
    )
    schema = schemas.get(file.stem, TrainConfig)
    config = load_config(schema, file)
    assert file.read_text(encoding="utf-8").startswith("# ")
    if schema is TrainConfig:
        assert all(re.compile(pattern) for pattern in config.trainable)
        assert not Path(config.output).is_absolute() and not Path(config.init).is_absolute()


# ---- documentation ---------------------------------------------------------------------------------------------------

API = [
    FollowYourPosePipeline, FollowYourPosePipeline.from_pretrained, FollowYourPosePipeline.from_image_model,
    FollowYourPosePipeline.save_pretrained, FollowYourPosePipeline.__call__, FollowYourPosePipeline.stream,
    FollowYourPoseOutput, VideoUNet,
    VideoUNet.forward, PoseEncoder, PoseEncoder.forward, inflate, from_released, to_released, render_skeleton,
    flip_keypoints, read_frames, write_video, PuppetDetector, generate, evaluate, train, export, select_trainable,
    write_dataset, load_config, Batch, open_estimator, PoseEstimator.__call__, extract_pose, retarget,
    make_study, score_study, wilson_interval,
]  # fmt: skip
SHAPES = [
    (VideoUNet.forward, "(b, c, f, h, w)"),
    (VideoUNet.encode_text, "(b, t, d)"),
    (PoseEncoder.forward, "(b, 3, f, H, W)"),
    (FollowYourPosePipeline.__call__, "(f, H, W, 3)"),
    (FollowYourPosePipeline.predict, "(b, c, f, h, w)"),
    (FollowYourPoseOutput, "(b, f, H, W, 3) in [0, 1]"),
    (Batch, "(b, 3, f, H, W) in [-1, 1]"),
    (to_pixels, "(3, f, H, W) in [-1, 1]"),
    (to_skeleton, "(3, f, H, W) in [0, 1]"),
    (render_skeleton, "(H, W, 3)"),
    (read_frames, "(f, H, W, 3)"),
    (stream_frames, "(f, H, W, 3)"),
    (write_video, "(f, H, W, 3)"),
    (video_writer, "(f, H, W, 3)"),
    (PoseEstimator.__call__, "(n, H, W, 3)"),
    (Denoise.latents, "(b, c, f, h, w)"),
    (Denoise.moments, "(b, 3, f, H, W) in [-1, 1]"),
]
# Where the name of a function says it all: a motion, a background, a head.
DRAWINGS = tuple(
    f"followyourpose.puppets.{name}" for name in ("backgrounds", "brush", "characters", "heads", "motions")
)
WIRING = ("followyourpose.evaluation.compare", "followyourpose.training.run_dir")  # tensors only pass through these
SIZE = r"(\.\.\.|[\w +*/^-]{1,9}|\(\w \w\))"  # 17, H, c_i, h / 2^i, (b f)
SHAPE = re.compile(rf"\({SIZE}(, {SIZE})+\)|\(\w,?\)")  # (b, c, f, h, w), (n, 17, 2), (n,)


def test_every_module_opens_with_what_it_is() -> None:
    for module, file in MODULES.items():
        docstring = ast.get_docstring(parsed(file))
        assert docstring and docstring.splitlines()[0].strip(), module


def test_docstrings_open_with_a_noun_or_an_imperative() -> None:
    for file in (file for room in ROOMS for file in (REPOSITORY / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                first = (ast.get_docstring(node) or "x").split()[0]
                wrong = first in ("What", "Who", "Whose", "Whom", "That", "Those")
                assert not wrong, f"{file}: {ast.get_docstring(node)}"


def test_the_public_names_resolve() -> None:
    for name in followyourpose.__all__:
        assert getattr(followyourpose, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Pipeline'"):
        followyourpose.Pipeline  # noqa: B018


@pytest.mark.parametrize("public", API, ids=lambda public: public.__qualname__)
def test_the_public_api_is_documented(public: object) -> None:
    docstring = vars(public)["__doc__"] if isinstance(public, type) else public.__doc__
    assert docstring and len(docstring.strip().splitlines()[0]) > 20


@pytest.mark.parametrize(("public", "shape"), SHAPES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_tensors_of_the_public_api_have_shapes_and_ranges(public: object, shape: str) -> None:
    assert shape in " ".join(public.__doc__.split())


def test_public_functions_are_documented_with_their_shapes() -> None:
    for module in (name for name in MODULES if not name.startswith(DRAWINGS)):
        for node in parsed(MODULES[module]).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            docstring = ast.get_docstring(node)
            assert docstring, f"{module}.{node.name} has no docstring"
            if isinstance(node, ast.FunctionDef) and not module.startswith(WIRING):
                signature = ast.unparse(node.args) + ast.unparse(node.returns or ast.Constant(None))
                signature = re.sub(r"(Mapping|dict)\[str, Tensor\]", "", signature)  # named weights
                if re.search(r"\b(Tensor|ndarray)\b", signature):
                    assert SHAPE.search(docstring), f"{module}.{node.name}: its docstring gives no shape"


def test_a_network_says_its_shapes_when_they_are_wrong(tiny_unet: VideoUNet, tiny_pose_encoder: PoseEncoder) -> None:
    with pytest.raises(ValueError, match=r"expected \(b, 4, f, h, w\)"):
        tiny_unet(torch.zeros(1, 4, 8, 8), 0, torch.zeros(1, 5, 12))
    with pytest.raises(ValueError, match=r"expected .*\(b, 3, f, H, W\)"):
        tiny_pose_encoder(torch.zeros(1, 4, 1, 64, 64))


# ---- a clone works anywhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["followyourpose", "configs", "scripts", "data_prep"])
def test_no_file_knows_a_machines_folders(folder: str) -> None:
    absolute = re.compile(r"(?<![\w.~/:-])/(home|root|tmp|work|mnt|media|opt|var|Users)\b")
    for file in (REPOSITORY / folder).rglob("*"):
        if file.suffix in (".py", ".yaml", ".json", ".md", ".txt"):
            assert not (match := absolute.search(file.read_text())), f"{file}: {match[0]}"
