"""Documentation: every command in it is one, and those that need nothing from elsewhere run, with small numbers.

Above a block that needs more stands a comment, <!-- needs: a download --> or another of NEEDS. Its commands are read,
their configs and keys checked, and not run.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from followyourpose.cli import verbs
from followyourpose.cli.main import main, parsed
from followyourpose.config import (
    EvaluateConfig,
    EvaluatePoseConfig,
    GenerateConfig,
    StudyConfig,
    TrainConfig,
)
from followyourpose.data.video_io import write_video
from followyourpose.generation.skeletons import SAMPLE

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = (".github", "checkpoints", "configs", "data_prep", "followyourpose", "scripts")
FILES = sorted([*REPOSITORY.glob("*.md"), *(file for room in ROOMS for file in (REPOSITORY / room).rglob("*.md"))])
NEEDS = {"a download", "a GPU", "a cluster", "hours", "an installation", "raters"}
SCHEMAS = {
    verbs.generate: (GenerateConfig, verbs.SAMPLE_CONFIG),
    verbs.demo: (GenerateConfig, verbs.DEMO_CONFIG),
    verbs.train: (TrainConfig, None),
    verbs.cache: (TrainConfig, None),
    verbs.evaluate: (EvaluateConfig, None),
    verbs.evaluate_pose: (EvaluatePoseConfig, None),
    verbs.study_make: (StudyConfig, None),
}
OTHERS = {  # programs that are not this package's
    "pytest", "ruff", "mypy", "pre-commit", "sbatch", "jq", "yt-dlp", "head", "python3", "img2dataset-env/bin/pip",
    "img2dataset-env/bin/img2dataset", "ray",
}  # fmt: skip
FEWER = {  # of a verb: settings with which it takes seconds
    "generate": ["num_inference_steps=1", "num_frames=2"],
    "train": ["steps=1", "optim.batch_size=2", "trackers=[]"],
    "evaluate": ["num_inference_steps=1", "num_videos=1", "flicker_videos=1", "without_skeleton=false"],
    "demo": None,  # it waits for a browser
}


@dataclass
class Block:
    """A block of code: its language, its text, and what it needs from elsewhere ("": nothing)."""

    language: str
    text: str
    needs: str

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command."""
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = next((place for place, word in enumerate(words) if word in ("&&", "|", ">")), len(words))
                if command := [word for word in words[:end] if not re.match(r"[A-Z_]+=", word)]:
                    yield command
                words = [] if words[end : end + 1] == [">"] else words[end + 1 :]


def blocks_of(file: Path) -> list[Block]:
    found = re.finditer(
        r"(?:<!-- needs: (?P<needs>[\w ]+) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
        file.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    return [Block(match["language"], match["text"], match["needs"] or "") for match in found]


def check_command(words: list[str]) -> None:
    """Fail unless a command can be: its verb, files, keys and flags exist."""
    program, *arguments = words
    module = re.search(r"-m (scripts|data_prep)\.(\w+) ?(.*)", " ".join(words))
    if program == "followyourpose":
        check_verb(arguments)
    elif module is not None:
        if module[2] == "train":
            return check_verb(["train", *words[words.index("scripts.train") + 1 :]])
        assert (REPOSITORY / module[1] / f"{module[2]}.py").is_file(), words
        sources = "".join(file.read_text(encoding="utf-8") for file in (REPOSITORY / module[1]).glob("*.py"))
        sources += Path(verbs.__file__).with_name("tools.py").read_text(encoding="utf-8")  # data_prep.puppets is a verb
        for flag in re.findall(r"(?<= )--[a-z-]+", module[3]):
            assert f'"{flag}"' in sources or f"--{flag}" in sources, f"{' '.join(words)}: no flag {flag}"
    elif program == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        wanted = {extra for group in re.findall(r"\.\[([\w,]+)\]", " ".join(words)) for extra in group.split(",")}
        assert arguments[0] == "install" and wanted <= extras.keys(), words
    else:
        assert program in OTHERS or program.startswith("job="), f"{' '.join(words)}: {program} is unknown here"


def check_verb(arguments: list[str]) -> None:
    options = parsed(arguments)
    if options.call in SCHEMAS:
        schema, default = SCHEMAS[options.call]
        verbs._config(schema, options.arguments, default)


def run(words: list[str]) -> None:
    """Run a command with small numbers, and fail where it does; programs of others are left out."""
    program, *arguments = words
    if program == "python":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [arguments[1], *small(arguments[2:])])
            try:
                runpy.run_module(arguments[1], run_name="__main__")
            except SystemExit as end:
                assert not end.code, " ".join(words)
    elif program == "followyourpose" and (fewer := FEWER.get(arguments[0], [])) is not None:
        if any("people" in word or ", 8: " in word for word in arguments):  # their prompts need their frames
            fewer = fewer[:1]
        AcceleratorState._reset_state(True)
        assert main([*small(arguments), *fewer]) == 0, " ".join(words)


def small(arguments: list[str]) -> list[str]:
    """Take few images and clips."""
    few = {"--images": "4", "--clips": "2"}
    return [few.get(before, word) for before, word in zip(["", *arguments], arguments, strict=False)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the documentation speaks of."""
    for name in ("my_dance.mp4", "walk.mp4", "dance.mp4"):
        shutil.copy(SAMPLE, tmp_path / name)
    for name in ("jump.json", "dance.json"):
        shutil.copy(SAMPLE.with_suffix(".json"), tmp_path / name)
    for name in ("theirs", "outputs/ours", "outputs/controlnet"):
        (tmp_path / name).mkdir(parents=True)
        shutil.copy(SAMPLE, tmp_path / name / "a.mp4")
    shutil.copy(SAMPLE.with_suffix(".json"), tmp_path / "theirs" / "dance.json")
    lines = [block.text for block in blocks_of(REPOSITORY / "configs/README.md") if block.language == "json"]
    (tmp_path / "theirs" / "manifest.jsonl").write_text(lines[0])
    (tmp_path / "prompts.txt").write_text("a panda in the forest\n")
    image, clip = own_data()
    for name, row in (("my-images", image), ("my-clips", clip)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.jsonl").write_text(row + "\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "my-images" / json.loads(image)["image"])
    write_video(tmp_path / "my-clips" / json.loads(clip)["video"], np.zeros((24, 64, 64, 3), np.uint8), fps=8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own_data() -> list[str]:
    """The README's lines of manifests: of images and of clips."""
    (block,) = [block for block in blocks_of(REPOSITORY / "README.md") if block.language == "json"]
    return block.text.splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_every_command_is_one(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = file.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- needs: (.+?) -->", text)) <= NEEDS
    for block in blocks_of(file):
        if block.language == "bash":
            for words in block.commands():
                check_command(words)
        elif block.language == "json":
            assert [json.loads(line) for line in block.text.splitlines()]
    for command in re.findall(r"`((?:followyourpose|torchrun|accelerate launch) [^`]+)`", text):
        words = shlex.split(" ".join(command.split()))
        if all(re.fullmatch(r"[a-z-]+", word) for word in words):  # the name of a verb
            with pytest.raises(SystemExit, match="^0$"):
                parsed([*words[1:], "--help"])
        elif not any(re.search(r"\b[A-Z]{2,}\b", word) for word in words):  # placeholders
            check_command(words)


SLOW = [pytest.param(REPOSITORY / room / "README.md", marks=pytest.mark.slow) for room in ("configs", "data_prep")]


@pytest.mark.parametrize("file", [REPOSITORY / "README.md", *SLOW], ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_commands_that_need_nothing_from_elsewhere_run(file: Path, folder: Path) -> None:
    for block in blocks_of(file):
        if block.language == "bash" and not block.needs:
            for words in block.commands():
                run(words)


@pytest.mark.parametrize("place", [0, 1])
def test_the_python_of_the_assets_makes_them_again(place: int, folder: Path) -> None:
    assets = folder / "followyourpose" / "assets"
    assets.mkdir(parents=True)
    exec(blocks_of(SAMPLE.with_name("README.md"))[place].text, {})
    made = sorted(assets.glob("*.json"))
    assert made and all(file.read_bytes() == (SAMPLE.parent / file.name).read_bytes() for file in made)


def test_the_readmes_python_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    (block,) = [block for block in blocks_of(REPOSITORY / "README.md") if "from_pretrained" in block.text]
    assert len(block.text.splitlines()) <= 10
    names: dict = {}
    exec(block.text.replace('"num_inference_steps": 20', '"num_inference_steps": 1'), names)
    assert names["out"].videos.shape == (1, 8, 128, 128, 3)


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_every_shipped_config_is_in_the_table_with_its_use() -> None:
    text = (REPOSITORY / "configs" / "README.md").read_text(encoding="utf-8")
    rows = {name: (verb, use) for name, verb, use in re.findall(r"^\| `([\w/-]+)` \| `(\w+)` \| (.*) \|$", text, re.M)}
    for file in (REPOSITORY / "configs").rglob("*.yaml"):
        name = file.relative_to(REPOSITORY / "configs").with_suffix("").as_posix()
        verb, use = rows.pop(name)
        assert use == verbs._use(file.read_text(encoding="utf-8")), name
        check_verb([verb, name])
    assert not rows
