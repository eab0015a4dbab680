"""Hostile settings and files: every verb ends with exit code 0, or with 2 and one line, never in a traceback.

FOLLOWYOURPOSE_FUZZ=10 takes ten times as many inputs, new ones each time; `-rP` shows how many were tried of each kind.
"""

import io
import json
import os
import resource
import shutil
import signal
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from followyourpose.cli.main import main
from followyourpose.config import EvaluateConfig, GenerateConfig, PoseConfig, StudyConfig, TrainConfig
from followyourpose.data.video_io import write_video
from followyourpose.generation.generate import Drawing
from followyourpose.generation.outputs import Shot
from tests.hostile import JSON, SUFFIXES, VALUES, changes_of, damaged, damaged_json, damaged_text, pictures

FACTOR = float(os.environ.get("FOLLOWYOURPOSE_FUZZ", "1"))
SECONDS, MEMORY = 20, 3 * 2**30  # of one input at most: a hang is an error too
WRITTEN = ("output", "data.cache", "data.download")  # folders that a setting names
TRIED: Counter[str] = Counter()
PERSON = {"keypoints": [[10.0 + joint, 20.0, 0.9] for joint in range(17)], "id": 0}
KEYPOINTS = {"width": 64, "height": 64, "fps": 8.0, "frames": [[PERSON], []] * 8}
LABEL = {"image": "one.png", "caption": "a", "width": 64, "height": 64, "people": [{"keypoints": PERSON["keypoints"]}]}


class Reached(Exception):
    """The first model would be loaded: all that comes before was accepted."""


class Stuck(BaseException):
    """An input that takes too long."""


def fuzz(everyday: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with so many inputs, the same each time."""
    return settings(
        max_examples=max(1, int(everyday * FACTOR)), derandomize=FACTOR == 1, deadline=None, database=None,
        suppress_health_check=list(HealthCheck), phases=[phase for phase in Phase if phase.name != "explain"],
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, with good inputs; nothing is loaded in it."""
    folder = tmp_path_factory.mktemp("fuzz")

    def refuse(*_: Any, **__: Any) -> None:
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for owner in (diffusers.ModelMixin, diffusers.DiffusionPipeline, transformers.PreTrainedModel):
            patch.setattr(owner, "from_pretrained", refuse)
        patch.setattr(
            "followyourpose.generation.extract_pose.open_estimator", lambda *_, **__: lambda frames: [[]] * len(frames)
        )
        patch.setattr(
            "followyourpose.generation.extract_pose.video_writer", lambda *_: nullcontext(lambda frames: None)
        )
        patch.setattr("followyourpose.study.make.video_writer", lambda *_: nullcontext(lambda frames: None))
        for system in ("one", "two"):
            Path(system).mkdir()
            image = Image.new("RGB", (16, 16), "red")
            image.save(f"{system}/a.gif", save_all=True, append_images=[image.rotate(90)])
        Path("frames").mkdir()
        for number in range(2):
            Image.new("RGB", (64, 64)).save(f"frames/{number}.png")
        write_video("a.mp4", np.zeros((2, 64, 64, 3), np.uint8), 8)
        Path("keypoints.json").write_text(json.dumps(KEYPOINTS), encoding="utf-8")
        Path("images").mkdir()
        for suffix in ("png", "jpg"):
            Image.new("RGB", (64, 64)).save(f"images/one.{suffix}")
        Path("images/manifest.jsonl").write_text(json.dumps(LABEL) + "\n", encoding="utf-8")
        yield folder
    for name, count in sorted(TRIED.items()):
        print(f"fuzz: {count} inputs of {name}")


def end(kind: str, *arguments: str, seconds: int = SECONDS) -> int:
    """Run a verb and return its exit code, 0 or 2."""
    errors = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(errors), time_limit(seconds), memory_limit(MEMORY):
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = stop.code
        except Reached:
            code = 0
    assert code in (0, 2), arguments
    TRIED[f"{kind}, exit code {code}"] += 1
    if code == 2:
        _, separator, line = errors.getvalue().rpartition("followyourpose: error: ")
        assert separator and line.endswith("\n") and len(line.splitlines()) == 1 and len(line) > 5, errors.getvalue()
    for folder in ("out", "outputs", "runs"):
        shutil.rmtree(folder, ignore_errors=True)
    return code


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Stuck

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_limit(more: int) -> Iterator[None]:
    """Let the process grow by so many bytes at most: beyond, allocation is an error."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def harmless(key: str, value: str) -> str:
    """A value that names no folder outside of the working directory, where the setting is a folder to write."""
    return "elsewhere" if key in WRITTEN and any(part in value for part in ("/", "..", "~", "$")) else value


REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = REPOSITORY / "configs" / "puppet" / "model"
CONFIGS = {
    "generate": REPOSITORY / "configs" / "puppet" / "generate.yaml",
    "train": REPOSITORY / "configs" / "puppet" / "stage1.yaml",
    "evaluate": REPOSITORY / "configs" / "puppet" / "benchmark.yaml",
}
TRAINED = ["init=checkpoints/puppet-base", "data.path=images", "data.cache=null", "data.download=d"]


# ---- settings --------------------------------------------------------------------------------------------------------

BASES: dict[str, tuple[type, list[str], list[str]]] = {  # verb -> schema, arguments before and after the hostile ones
    "generate": (GenerateConfig, ["generate"], []),
    "evaluate": (EvaluateConfig, ["evaluate"], []),
    "train": (TrainConfig, ["train", str(CONFIGS["train"]), *TRAINED], ["--dry-run"]),
    "study": (StudyConfig, ["study", "make", "systems.one=one", "systems.two=two"], []),
}


@pytest.mark.parametrize("verb", BASES)
def test_settings(verb: str) -> None:
    schema, before, after = BASES[verb]

    @fuzz(40)
    @given(st.lists(changes_of(schema), min_size=1, max_size=4))
    def check(changes: list[tuple[str, str]]) -> None:
        hostile = [f"{key}={harmless(key, value)}" for key, value in changes]
        own = [] if any(key == "output" for key, _ in changes) else ["output=out"]
        AcceleratorState._reset_state(reset_partial_state=True)
        end(f"settings of {verb}", *before, *own, *hostile, *after)

    check()


@fuzz(20)
@given(st.lists(changes_of(PoseConfig, unknown=False), min_size=1, max_size=3))
def test_flags_of_extract_pose(changes: list[tuple[str, str]]) -> None:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in changes if key != "source"]
    end("flags of extract-pose", "extract-pose", "one/a.gif", "-o", "out", "--backend", "puppet", *flags)


# ---- files -----------------------------------------------------------------------------------------------------------


@fuzz(40)
@given(st.data())
def test_yaml(data: st.DataObject) -> None:
    verb = data.draw(st.sampled_from(sorted(CONFIGS)))
    whole = CONFIGS[verb].read_text()
    content = data.draw(
        damaged_text(whole)
        | JSON.map(json.dumps).map(str.encode)
        | VALUES.map(lambda text: text.encode("utf-8", "surrogatepass"))
    )
    Path("config.yaml").write_bytes(content)
    more = [*TRAINED, "--dry-run"] if verb == "train" else []
    AcceleratorState._reset_state(reset_partial_state=True)
    end(f"YAML of {verb}", verb, "config.yaml", "output=out", *more)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(20)
)
ENDLESS = {
    "aliases": BOMB,
    "recursion": "prompt: &a [*a]\n",
    "itself": "&a\nprompt: *a\n",
    "merges": "a: &a {<<: *a}\n",
    "depth": "prompt: " + "[" * 100_000,
    "mappings": "{a: " * 100_000,
    "lines": "".join(" " * i + "a:\n" for i in range(2000)),
    "size": "prompt: " + "a" * 50_000_000,
    "keys": "".join(f"k{i}: 1\n" for i in range(10_000)),
    "digits": "seed: " + "9" * 500_000,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_config_is_refused(name: str) -> None:
    Path("endless.yaml").write_text(ENDLESS[name], encoding="utf-8")
    assert end("endless YAML", "generate", "endless.yaml", "output=out", seconds=5) == 2


DEEP = {
    "lists": "[" * 1_000_000,
    "mappings": '{"a": ' * 1_000_000,
    "digits": "9" * 1_000_000,
    "half": '{"frames": [[' * 3,
}


@pytest.mark.parametrize("name", DEEP)
def test_endless_json_is_refused(name: str) -> None:
    Path("endless.json").write_text(DEEP[name], encoding="utf-8")
    Path("endless.jsonl").write_text(DEEP[name], encoding="utf-8")
    for command in (
        "generate output=out skeleton=endless.json",
        "evaluate output=out videos=endless.jsonl",
        "study score endless.json endless.jsonl",
    ):
        assert end("endless JSON", *command.split(), seconds=5) == 2


RAW = ("pose.source=raw", "pose.backend=puppet")
PATHS = ("/dev/zero", "/dev/null", ".", "one", "nowhere", "")
COMMANDS = (
    "generate PATH",
    "generate output=out skeleton=PATH",
    "generate output=out skeleton=PATH.json",
    "generate output=out skeleton=PATH pose.source=raw pose.backend=puppet",
    "generate output=out skeleton=keypoints.json retarget.reference=PATH",
    "generate output=out lora=PATH",
    "generate output=out model=PATH",
    "train PATH",
    "evaluate output=out videos=PATH",
    "study make systems.a=one systems.b=two manifest=PATH",
    "study make systems.a=one systems.b=PATH",
    "study score PATH PATH",
    "extract-pose PATH -o out --backend puppet",
    "inspect PATH",
    "export PATH out",
    "convert-weights PATH out",
)


@pytest.mark.parametrize("path", PATHS)
def test_devices_and_folders_are_no_files(path: str) -> None:
    for command in COMMANDS:
        end("devices and folders", *(word.replace("PATH", path) for word in command.split()))


@fuzz(30)
@given(damaged_json(KEYPOINTS) | st.just(KEYPOINTS), st.data())
def test_keypoints(content: Any, data: st.DataObject) -> None:
    text = json.dumps(content)
    Path("damaged.json").write_bytes(data.draw(st.just(text.encode()) | damaged_text(text)))
    end("keypoints", "generate", "skeleton=damaged.json", "output=out")
    end("keypoints", "generate", "skeleton=keypoints.json", "retarget.reference=damaged.json", "output=out")


ROW = {"video": "frames", "prompt": "a", "skeleton": "keypoints.json", "frames": [0, 1], "seed": 1}
STUDIED = {"video": "a.gif", "prompt": "a", "skeleton": "keypoints.json"}
CLIP = {"video": "a.gif", "caption": "a", "people": None}


MANIFESTS = (
    (ROW, "evaluate output=out videos=manifests"),
    (STUDIED, "study make output=out systems.one=one systems.two=two manifest=manifests/manifest.jsonl"),
    (LABEL, "inspect manifests --sheet out/sheet.png"),
    (CLIP, "inspect manifests --sheet out/sheet.png"),
)


@fuzz(40)
@given(st.data())
def test_manifests(data: st.DataObject) -> None:
    folder = Path("manifests")
    shutil.copytree("one", folder, dirs_exist_ok=True)
    Image.new("RGB", (64, 64)).save(folder / "one.png")
    shutil.copy("keypoints.json", folder)
    shutil.copytree("frames", folder / "frames", dirs_exist_ok=True)
    row, command = data.draw(st.sampled_from(MANIFESTS))
    lines = "\n".join(
        json.dumps(data.draw(st.just(row) | damaged_json(row))) for _ in range(data.draw(st.integers(0, 3)))
    )
    content = data.draw(st.just(lines.encode()) | damaged_text(lines))
    (folder / "manifest.jsonl").write_bytes(content)
    verb, *rest = command.split()
    end(f"manifests of {verb}", verb, *rest)


@fuzz(25)
@given(st.data())
def test_answers_of_a_study(data: st.DataObject) -> None:
    key = {
        "study": "s1", "questions": {"quality": "Which?"}, "systems": {"one": "one", "two": "two"},
        "items": {"i1": {"name": "a", "prompt": "a", "skeleton": None, "videos": {"x": "one", "y": "two"}}},
    }  # fmt: skip
    text = "study,rater,step,item,question,position,seconds,choice\ns1,1,1,i1,quality,1,2.5,x\n"
    Path("key.json").write_text(json.dumps(data.draw(st.just(key) | damaged_json(key))), encoding="utf-8")
    Path("answers.csv").write_bytes(data.draw(damaged_text(text)))
    end("answers", "study", "score", "key.json", "answers.csv")


SETTINGS = {"prompt": "a", "skeleton": "keypoints.json", "num_frames": 2, "height": 64, "width": 64}
RECORD = {
    "settings": SETTINGS,
    "videos": [{"prompt": "a", "skeleton": "keypoints", "seed": 0, "files": [f"a{n}.mp4" for n in range(4)]}],
}


@fuzz(16)
@given(st.data())
def test_records_of_a_run(data: st.DataObject) -> None:
    Path("run").mkdir(exist_ok=True)
    for file in RECORD["videos"][0]["files"]:
        shutil.copy("a.mp4", f"run/{file}")
    text = json.dumps(data.draw(st.just(RECORD) | damaged_json(RECORD)))
    Path("run/run.json").write_bytes(data.draw(st.just(text.encode()) | damaged_text(text)))
    end("records of a run", "evaluate", "videos=run", "output=out")
    end("records of a run", "study", "make", "systems.one=run", "systems.two=run", "output=out")


@fuzz(8)
@given(st.data())
def test_models(data: st.DataObject) -> None:
    """Weights, and the JSON files of a model's folder."""
    shutil.copytree(MODEL, "model", dirs_exist_ok=True)
    files = sorted(path for path in Path("model").rglob("*.json") if path.stat().st_size < 10_000)
    file = data.draw(st.sampled_from(files))
    content = json.dumps(data.draw(damaged_json(json.loads(file.read_text()))))
    file.write_bytes(data.draw(st.just(content.encode()) | damaged_text(content)))
    Path("a.safetensors").write_bytes(data.draw(damaged(save({"a.lora_A.weight": torch.zeros(2, 2)}))))
    end("models", "generate", "model=model", "output=out")
    end("models", "train", str(CONFIGS["train"]), *TRAINED, "init=model", "output=out", "--dry-run")
    end("models", "generate", "lora=a.safetensors", "output=out")
    end("models", "inspect", "a.safetensors")
    end("models", "convert-weights", "a.safetensors", "out")


# ---- pictures --------------------------------------------------------------------------------------------------------


def read_all(drawing: Drawing, shots: list[Shot], *_: Any) -> None:
    """The skeletons of a run, as the pipeline would read them."""
    for shot in shots:
        shot.source.frames(*shot.size, range(drawing.config.num_frames))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of generate read their skeletons, and draw nothing."""
    monkeypatch.setattr(Drawing, "draw", read_all)


@fuzz(12)
@given(st.data(), st.sampled_from((".mp4", ".avi", ".mkv", ".gif", ".png")))
def test_videos(undrawn: None, data: st.DataObject, suffix: str) -> None:
    file = Path(f"video{suffix}")
    file.write_bytes(data.draw(damaged(Path("a.mp4").read_bytes())))
    end("videos", "generate", f"skeleton={file}", "num_frames=2", "output=out")
    end("videos", "extract-pose", str(file), "-o", "out", "--backend", "puppet")


@fuzz(25)
@given(st.data())
def test_shards(data: st.DataObject) -> None:
    """Tar shards that are damaged, or whose labels are."""
    shard, members = io.BytesIO(), {"a.jpg": Path("images/one.jpg").read_bytes(), "a.txt": b"a"}
    label = {key: LABEL[key] for key in ("width", "height", "people")}
    members["a.json"] = json.dumps(data.draw(st.just(label) | damaged_json(label))).encode()
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(
                data.draw(st.sampled_from((name, name, name, "../" + name, "a.a.json", "é" * 99, "a")))
            )
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    Path("shard.tar").write_bytes(data.draw(damaged(shard.getvalue())))
    end("shards", "inspect", "shard.tar", "--sheet", "out/sheet.png")


@fuzz(50)
@given(pictures(), st.sampled_from(SUFFIXES), st.data())
def test_pictures(undrawn: None, content: bytes, suffix: str, data: st.DataObject) -> None:
    path, folder = Path(f"picture{suffix}"), Path("pictures")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("one", folder)
    path.write_bytes(content)
    path.replace(folder / path.name)
    Image.new("RGB", (16, 16)).save(folder / "b.png")
    target = str(data.draw(st.sampled_from((folder / path.name, folder))))
    (folder / "manifest.jsonl").write_text(json.dumps(LABEL | {"image": path.name}) + "\n")
    command = data.draw(st.sampled_from((
        ["generate", f"skeleton={target}", "num_frames=1", "output=out"],
        ["generate", f"skeleton={target}", "num_frames=2", "skeleton_end=loop", "output=out", *RAW],
        ["extract-pose", target, "-o", "out", "--backend", "puppet"],
        ["inspect", str(folder), "--sheet", "out/sheet.png"],
        ["study", "make", "systems.one=one", f"systems.two={folder}", "output=out"],
    )))  # fmt: skip
    end(f"pictures of {command[0]}", *command)
