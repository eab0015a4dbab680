"""Controls of the page, each named after the config's key that it sets, and the config that their values make.

A nested key has `_` in place of the dot: crop_left. The parameters of the HTTP API have the same names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from followyourpose.config import GenerateConfig
from followyourpose.data.transforms import ENDS
from followyourpose.generation.loras import open_loras
from followyourpose.generation.sampling import SCHEDULERS
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pipeline.schedule import lines_of
from followyourpose.pipeline.windows import MODES
from followyourpose.web.requests import SIGNATURES, Limits, configure

if TYPE_CHECKING:
    from gradio.components import Component

SAMPLES = {"dance": None} | {name: SAMPLE.with_name(f"{name}.json") for name in ("left", "right", "two")}
NO_LORA = "none"
SEEDS = 2**31  # random seeds are below
YOUR_OWN, FIND = "Upload your own", "Find its people"
LABELS = {
    "prompt": "Prompt", "negative_prompt": "Negative prompt", "sample": "Driving video", "skeleton": "Driving video",
    "upload": "Driving video", "pose_source": "It shows", "skeleton_size": "Frame size of keypoints",
    "temporal_offset": "First frame", "stride": "Take every n-th frame", "num_frames": "Number of frames",
    "skeleton_end": "After its last frame", "fit": "Of another shape than the result", "crop_left": "Crop left, pixels",
    "crop_right": "Crop right, pixels", "crop_top": "Crop top, pixels", "crop_bottom": "Crop bottom, pixels",
    "seed": "Seed", "num_inference_steps": "Denoising steps", "guidance_scale": "Guidance scale",
    "pose_scale": "Pose strength", "scheduler": "Sampler", "long_video_mode": "Long videos", "lora": "LoRA",
    "lora_weight": "LoRA weight", "people": "Sentence of each person", "transition": "Frames between two prompts",
}  # fmt: skip
PRESETS = ("fast", "standard", "released")
_PRESET = ("num_inference_steps", "guidance_scale", "scheduler")  # keys that a preset sets


def driving_choice() -> dict[str, "Component"]:
    """Lay out the choice of a driving video: a sample, or `upload`, which may be empty."""
    import gradio as gr

    with gr.Row(elem_classes="choice"):
        sample = gr.Radio(list(SAMPLES), value="dance", label=LABELS["sample"], min_width=200, scale=2)
        upload = gr.UploadButton(YOUR_OWN, file_types=list(SIGNATURES), size="md", min_width=120)
    return {"sample": sample, "upload": upload}


def driving_controls(config: GenerateConfig, limits: Limits) -> dict[str, "Component"]:
    """Lay out the controls of the driving frames: name -> control."""
    import gradio as gr

    def whole(name: str, low: int, high: int, value: int) -> gr.Slider:
        return gr.Slider(low, high, min(value, high), step=1, precision=0, label=LABELS[name])

    controls = {
        "temporal_offset": whole("temporal_offset", 0, limits.upload_frames - 1, config.temporal_offset),
        "stride": whole("stride", 1, 16, config.stride),
        "num_frames": whole("num_frames", 1, limits.num_frames, config.num_frames),
        "skeleton_end": gr.Radio(list(ENDS), value=config.skeleton_end, label=LABELS["skeleton_end"]),
    }
    controls["fit"] = gr.Radio(
        [("cut its sides off", "cover"), ("black around it", "pad")], value=config.fit, label=LABELS["fit"]
    )
    for edge in ("left", "right", "top", "bottom"):
        name = f"crop_{edge}"
        controls[name] = whole(name, 0, limits.upload_side - 1, getattr(config.crop, edge))
    controls["pose_source"] = gr.Radio(
        [("limbs on black", "skeleton"), ("people, whose skeletons are found first", "raw")],
        value=config.pose.source,
        label=LABELS["pose_source"],
    )
    controls["skeleton_size"] = gr.Textbox(
        config.skeleton_size or "", label=LABELS["skeleton_size"], placeholder="1280x720", max_lines=1,
        info="for keypoints of other tools that have no size",
    )  # fmt: skip
    return controls


def prompt_controls(config: GenerateConfig) -> tuple[dict[str, "Component"], list[str]]:
    """Lay out the prompt; return it, and the prompts to suggest."""
    import gradio as gr

    prompts = [lines_of(prompt) for prompt in (config.prompt if isinstance(config.prompt, list) else [config.prompt])]
    box = gr.Textbox(prompts[0], label=LABELS["prompt"], lines=2, max_lines=4, placeholder="Who is where?")
    return {"prompt": box}, prompts


def people_control() -> dict[str, "Component"]:
    """Lay out people's sentences, which are shown where a driving video has several people."""
    import gradio as gr

    return {
        "people": gr.Textbox(
            "", label=LABELS["people"], lines=2, max_lines=8, visible=False, elem_classes="people",
            placeholder="0: a robot on the moon", info="a line each, behind the number; the prompt is the scene's",
        )
    }  # fmt: skip


def sampling_controls(config: GenerateConfig, limits: Limits) -> dict[str, "Component"]:
    """Lay out the controls of sampling: name -> control."""
    import gradio as gr

    most, steps = limits.num_inference_steps, min(config.num_inference_steps, limits.num_inference_steps)
    return {
        "seed": gr.Number(config.seed, precision=0, minimum=0, maximum=SEEDS, label=LABELS["seed"]),
        "random_seed": gr.Checkbox(False, label="Another seed each time"),
        "num_inference_steps": gr.Slider(1, most, steps, step=1, precision=0, label=LABELS["num_inference_steps"]),
        "guidance_scale": gr.Slider(1, 20, config.guidance_scale, step=0.1, label=LABELS["guidance_scale"]),
        "pose_scale": gr.Slider(0, 2, config.pose_scale, step=0.05, label=LABELS["pose_scale"]),
        "scheduler": gr.Dropdown(list(SCHEDULERS), value=config.scheduler, label=LABELS["scheduler"]),
        "negative_prompt": gr.Textbox(config.negative_prompt, label=LABELS["negative_prompt"]),
        "long_video_mode": gr.Dropdown(
            list(MODES), value=config.long_video.mode, label=LABELS["long_video_mode"],
            info="joins the windows of videos longer than one",
        ),
        "transition": gr.Slider(
            0, 16, min(config.transition, 16), step=1, precision=0, label=LABELS["transition"],
            info="a prompt may be several, a line each from its frame on: 0: a panda in the snow, 8: a panda at sea",
        ),
        "lora": gr.Dropdown([NO_LORA, *loras_of(config)], value=NO_LORA, label=LABELS["lora"]),
        "lora_weight": gr.Slider(0, 2, 1, step=0.05, label=LABELS["lora_weight"]),
    }  # fmt: skip


def preset(name: str, config: GenerateConfig, limits: Limits) -> dict[str, Any]:
    """Return the settings of a preset: fast, as configs/puppet/fast.yaml; standard, the config's own; as released."""
    values = {key: getattr(config, key) for key in _PRESET}
    values |= {"fast": {"num_inference_steps": 8, "scheduler": "dpm++"}, "standard": {}, "released": {
        "num_inference_steps": 50, "guidance_scale": 12.5, "scheduler": "ddim",
    }}[name]  # fmt: skip
    return values | {"num_inference_steps": min(values["num_inference_steps"], limits.num_inference_steps)}


def driving_video(sample: str | None, upload: str | None) -> Path | None:
    """Return the upload, or else the sample; None: the sample that `generate` takes by default."""
    return Path(upload) if upload else SAMPLES[sample or "dance"]


def requested_config(base: GenerateConfig, limits: Limits, values: Mapping[str, Any]) -> GenerateConfig:
    """Return `base` with the values of controls, by name, in place of its own.

    Raises:
        ValueError: as `configure`.
    """
    values = dict(values)
    path = driving_video(values.pop("sample"), values.pop("upload"))
    lora, weight = values.pop("lora", NO_LORA), values.pop("lora_weight", 1.0)
    loras = None if lora == NO_LORA else [{"path": loras_of(base)[lora], "weight": weight}]
    values["skeleton_size"] = values.get("skeleton_size") or None
    return configure(base, limits, skeleton=None if path is None else str(path), lora=loras, **values)


def in_labels(message: str) -> str:
    """Return a message in the words of the labels, in place of the config's keys."""
    for key, label in (
        ("with pose.source=raw its people are found first", f"press “{FIND}”"),
        ("or a raw video with pose.source=raw", f"or a video of people and “{FIND}”"),
    ):
        message = message.replace(key, label)
    key, colon, rest = message.partition(": ")
    if colon and (label := LABELS.get(key.replace(".", "_"))):
        message = f"{label}: {rest}"
    keys = "|".join(name.replace("_", "[._]") for name in LABELS if "_" in name or name == "stride")
    return re.sub(rf"\b({keys})\b", lambda match: f"“{LABELS[match[0].replace('.', '_')]}”", message)


def loras_of(config: GenerateConfig) -> dict[str, str]:
    """Return the LoRAs to choose from: name for clients -> path, as in the config."""
    entries = config.lora if isinstance(config.lora, list) else [config.lora]
    given = [entry["path"] if isinstance(entry, dict) else entry for entry in entries if entry is not None]
    files = [Path(lora.path) for lora in open_loras(given)]
    names = [file.parent.name if file.stem == "pytorch_lora_weights" else file.stem for file in files]
    return dict(zip(names, given, strict=True))
