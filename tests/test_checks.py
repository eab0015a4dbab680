"""Checks of a run before anything is loaded: at once, and by name."""

import sys
from pathlib import Path

import pytest

from followyourpose.training.checks import check_inputs
from tests.runs import STAGE1, STAGE2, settings
from tests.test_contracts import run_python


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("init=nowhere", "nowhere: no such (file or )?folder"),
        ("data.path=nowhere", "data.path: nowhere: no such file or folder"),
        ("validation.skeleton=no.mp4", "validation.skeleton: no.mp4: no such file or folder"),
        ("data.width=17", "data.width: got 17 pixels, expected a multiple of 2; the nearest: 16 or 18"),
        ("trackers=[tensorbord]", "trackers: got 'tensorbord', expected one of all, aim"),
    ],
)
def test_inputs_are_checked_before_anything_is_loaded(world: Path, tmp_path: Path, override: str, reason: str) -> None:
    config = settings(world, tmp_path / "run", STAGE1, "validation.every=1", "validation.prompts=[a cat]", override)
    with pytest.raises(ValueError, match=reason):
        check_inputs(config)


def test_the_command_needs_no_network_library_for_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").touch()
    shown = "configs/puppet/stage1.yaml"
    code = f"""
from followyourpose.cli.main import main
assert main(["train", {shown!r}, "init=nowhere"]) == 2
assert main(["train", {shown!r}, "init=checkpoints/puppet-base", "output={folder}", "--dry-run"]) == 2
assert main(["cache", {shown!r}, "init=nowhere"]) == 2
assert not {{"torch", "diffusers", "transformers"}} & set(sys.modules)
"""
    run_python(code, tmp_path)


def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for override, package, command in (
        (
            "data.path=https://host/{0..1}.tar",
            "fsspec",
            r'data.path: .*: fsspec is not .* -e "\.\[data\]"',
        ),
        ("optim.name=adamw8bit", "bitsandbytes", r'optim.name: got .* CUDA GPU and `pip install -e "\.\[bnb\]"`'),
        ("trackers=[tensorboard]", "tensorboard", "trackers: tensorboard is not installed; pip install tensorboard"),
    ):
        with monkeypatch.context() as patch, pytest.raises(ValueError, match=command):
            patch.setitem(sys.modules, package, None)
            check_inputs(settings(world, tmp_path / "run", STAGE1, override))


def test_a_run_that_starts_from_itself_is_named(world: Path, tmp_path: Path, stage1: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    text = (stage1 / "config.yaml").read_text().replace(str(world / "video-model"), str(folder))
    (folder / "config.yaml").write_text(text)
    (folder / "weights.safetensors").touch()
    with pytest.raises(ValueError, match="run: the run starts from itself, by `init` of its config.yaml"):
        check_inputs(settings(world, tmp_path / "next", STAGE2, f"init={folder}"))


def test_an_unfinished_run_is_no_start(world: Path, tmp_path: Path, stage1: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text((stage1 / "config.yaml").read_text())
    with pytest.raises(ValueError, match="run: the run has not finished"):
        check_inputs(settings(world, tmp_path / "next", STAGE2, f"init={tmp_path / 'run'}"))
