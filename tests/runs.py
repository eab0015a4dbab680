"""Small runs of both stages, for the tests of training."""

import json
from pathlib import Path

from followyourpose.config import TrainConfig, build_config

SIZE = 16  # pixels; latents have half of it
RELEASED_NAMES = ("attn1.to_q", "attn2.to_q", "attn_temp", "conv_temporal")  # what the authors' stage 2 trains

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
