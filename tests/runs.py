"""Small runs of the stages, and comparisons of runs, for the tests of training."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from followyourpose.config import TrainConfig, build_config

SIZE = 16  # pixels; latents have half of it
RELEASED_NAMES = ("attn1.to_q", "attn2.to_q", "attn_temp", "conv_temporal")  # trained by the authors' stage 2

STAGE1 = {"trainable": [r"^pose_encoder\."], "data": {"skeleton": True}, "optim": {"learning_rate": 1e-2}}
STAGE2 = {
    "trainable": [rf"^unet\..*{name.replace('.', '[.]')}" for name in RELEASED_NAMES],
    "data": {"kind": "clips", "num_frames": 3, "stride": [1, 2]},
    "optim": {"learning_rate": 1e-2},
}
BASE = {"scratch": ["unet"], "trainable": [r"^unet\."], "prompt_dropout": 0.5}
LORA = {
    "lora": {"rank": 2, "alpha": 4.0},
    "trainable": [r"^unet\..*lora"],
    "optim": {"learning_rate": 1e-1},
}


def settings(world: Path, output: Path, stage: dict, *overrides: str) -> TrainConfig:
    """A small run of `stage`; an override is key=value, as on the command line."""
    content = {"init": str(world / "video-model"), "output": str(output), "steps": 2, "log_every": 1} | stage
    kind = stage.get("data", {}).get("kind", "images")
    content["data"] = {"path": str(world / "data" / kind), "height": SIZE, "width": SIZE} | stage.get("data", {})
    content["optim"] = {"batch_size": 2} | stage.get("optim", {})
    return build_config(TrainConfig, content, overrides)


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def all_weights(folder: Path) -> dict[str, Tensor]:
    """Every weight of a pipeline folder as "component.parameter"."""
    files = sorted(folder.glob("*/*.safetensors"))
    return {f"{file.parent.name}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def interrupt(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a run in the middle of a step, once."""
    from followyourpose.training import loop  # late: most test files need none of it

    optimize = loop._optimize

    def dies(*arguments) -> tuple[float, float]:
        if arguments[3].step == step:
            monkeypatch.setattr(loop, "_optimize", optimize)
            raise KeyboardInterrupt
        return optimize(*arguments)

    monkeypatch.setattr(loop, "_optimize", dies)


def assert_same_run(first: Path, second: Path) -> None:
    """Compare weights, moving average and optimiser state bit for bit."""
    for name in ("weights.safetensors", "weights_ema.safetensors"):
        assert (first / name).exists() == (second / name).exists()
        if (first / name).exists():
            assert (first / name).read_bytes() == (second / name).read_bytes()
    one, other = (torch.load(max(run.glob("checkpoint-*/state.pt")), weights_only=True) for run in (first, second))
    assert one["step"] == other["step"] and one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    for state, twin in zip(*(run["optimizer"]["state"].values() for run in (one, other)), strict=True):
        assert all(torch.equal(state[name], twin[name]) for name in ("step", "exp_avg", "exp_avg_sq"))
