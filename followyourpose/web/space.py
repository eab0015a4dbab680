"""The page as a hosted Gradio Space: app.py, requirements and README, with this package and its models beside them."""

import dataclasses
import shutil
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement

from followyourpose.common.checks import check_installed
from followyourpose.common.files import atomic_write, new_folder
from followyourpose.config import REPOSITORY, ConfigError, GenerateConfig, locate, save_config
from followyourpose.hub.resolve import is_hub_id

PACKAGE = Path(__file__).resolve().parents[1]
BESIDE = ("configs", "checkpoints/puppet-eval", "checkpoints/puppet-lora-blueprint")  # of a clone, which the page uses
MODEL = "model"  # folder of a local checkpoint
_APP = '''"""The page of Follow Your Pose, as its host starts it."""

import os
import sys

from followyourpose.cli.main import main

sys.exit(main(["demo", "config.yaml", "--host", "0.0.0.0", "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]))
'''
_README = """---
title: Follow Your Pose
emoji: 🕺
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {gradio}
app_file: app.py
license: apache-2.0
---

Character videos that follow a skeleton and a sentence ([the paper](https://arxiv.org/abs/2304.01186)). Duplicate this
Space to run it on a GPU.
"""


def write_space(config: GenerateConfig, folder: Path) -> None:
    """Write a Space into a new folder; its page has the settings of `config`, as `followyourpose demo` has.

    Args:
        config: its model is the embedded default, a folder, which is copied, or a hub id, which the Space downloads.

    Raises:
        ValueError: the folder is not empty, or the model is none of these.
    """
    check_installed("--space", "demo", "gradio")
    with new_folder(folder) as work:
        shutil.copytree(PACKAGE, work / "followyourpose", ignore=shutil.ignore_patterns("__pycache__"))
        if REPOSITORY == PACKAGE.parent:  # a clone; a wheel has them in the package
            for name in BESIDE:
                shutil.copytree(REPOSITORY / name, work / name)
        if (model := locate(config.model)).is_dir():
            shutil.copytree(model, work / MODEL)
            config = dataclasses.replace(config, model=MODEL)
        elif not is_hub_id(config.model):
            raise ConfigError(f"model: got {config.model}, expected a folder or a hub id, which the Space can download")
        save_config(config, work / "config.yaml")
        atomic_write(work / "app.py", _APP)
        atomic_write(work / "requirements.txt", "".join(f"{line}\n" for line in requirements()))
        atomic_write(work / "README.md", _README.format(gradio=version("gradio")))


def requirements() -> list[str]:
    """Return this package's requirements with those of the page, without Gradio, which the host brings."""
    listed = map(Requirement, requires("followyourpose") or [])
    wanted = (each for each in listed if each.marker is None or each.marker.evaluate({"extra": "demo"}))
    return sorted(f"{each.name}{each.specifier}" for each in wanted if each.name != "gradio")
