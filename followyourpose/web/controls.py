"""Controls of the page, each named after the config's key that it sets, and the config that their values make.

A nested key has `_` in place of the dot: crop_left. The parameters of the HTTP API have the same names.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from followyourpose.config import GenerateConfig
from followyourpose.data.transforms import ENDS
from followyourpose.generation.loras import open_loras
from followyourpose.generation.sampling import SCHEDULERS
from followyourpose.generation.skeletons import SAMPLE
from followyourpose.pipeline.windows import MODES
from followyourpose.web.requests import SIGNATURES, Limits, configure

if TYPE_CHECKING:
    from gradio.components import Component

SAMPLES = {"dance": None, "left": SAMPLE.with_name("left.json"), "right": SAMPLE.with_name("right.json")}
NO_LORA = "none"
SEEDS = 2**31  # random seeds are below


def driving_controls(config: GenerateConfig, limits: Limits) -> dict[str, "Component"]:
    """Lay out the controls of the driving frames: name -> control. The last is `upload`, which may be empty."""
    import gradio as gr

    def whole(low: int, high: int, value: int, label: str) -> gr.Slider:
        return gr.Slider(low, high, min(value, high), step=1, precision=0, label=label)

    controls = {"sample": gr.Radio(list(SAMPLES), value="dance", label="Driving video", info="a sample, or your own")}
    upload = gr.File(label="Your own: a video, a gif, or keypoints .json", file_types=list(SIGNATURES), height=140)
    controls |= {
        "pose_source": gr.Radio(
            ["skeleton", "raw"], value=config.pose.source, label="Type",
            info="skeleton: limbs on black; raw: people, whose skeletons are found first",
        ),
        "temporal_offset": whole(0, limits.upload_frames - 1, config.temporal_offset, "Temporal offset, frames"),
        "stride": whole(1, 16, config.stride, "Stride, frames"),
        "num_frames": whole(1, limits.num_frames, config.num_frames, "Number of frames"),
        "skeleton_end": gr.Radio(list(ENDS), value=config.skeleton_end, label="After its last frame"),
    }  # fmt: skip
    with gr.Accordion("Crop", open=False):
        for edge in ("left", "right", "top", "bottom"):
            most = limits.upload_side - 1
            controls[f"crop_{edge}"] = whole(0, most, getattr(config.crop, edge), f"Crop {edge}, pixels")
    return controls | {"upload": upload}


def drawing_controls(config: GenerateConfig, limits: Limits) -> dict[str, "Component"]:
    """Lay out the controls of prompt and sampling: name -> control."""
    import gradio as gr

    prompts = [config.prompt] if isinstance(config.prompt, str) else config.prompt
    prompt = gr.Textbox(prompts[0], label="Prompt", lines=2)
    suggestions = [[text] for text in prompts]
    gr.Examples(suggestions, prompt, label="Suggestions", examples_per_page=len(prompts), api_visibility="private")
    controls = {
        "prompt": prompt,
        "negative_prompt": gr.Textbox(config.negative_prompt, label="Negative prompt"),
        "seed": gr.Number(config.seed, precision=0, minimum=0, maximum=SEEDS, label="Seed"),
        "random_seed": gr.Checkbox(False, label="Another seed each time"),
    }
    most, steps = limits.num_inference_steps, min(config.num_inference_steps, limits.num_inference_steps)
    with gr.Accordion("Settings", open=False):
        return controls | {
            "num_inference_steps": gr.Slider(1, most, steps, step=1, precision=0, label="Denoising steps"),
            "guidance_scale": gr.Slider(1, 20, config.guidance_scale, step=0.1, label="Guidance scale"),
            "pose_scale": gr.Slider(0, 2, config.pose_scale, step=0.05, label="Pose strength"),
            "scheduler": gr.Dropdown(list(SCHEDULERS), value=config.scheduler, label="Sampler"),
            "long_video_mode": gr.Dropdown(
                list(MODES), value=config.long_video.mode, label="Long videos", info="how their windows are joined"
            ),
            "lora": gr.Dropdown([NO_LORA, *_loras(config)], value=NO_LORA, label="LoRA"),
            "lora_weight": gr.Slider(0, 2, 1, step=0.05, label="LoRA weight"),
        }


def driving_video(sample: str, upload: str | None) -> Path | None:
    """Return the upload, or else the sample; None: the sample that `generate` takes by default."""
    return Path(upload) if upload else SAMPLES[sample]


def requested_config(base: GenerateConfig, limits: Limits, values: Mapping[str, Any]) -> GenerateConfig:
    """Return `base` with the values of controls, by name, in place of its own.

    Raises:
        ValueError: as `configure`.
    """
    values = dict(values)
    path = driving_video(values.pop("sample"), values.pop("upload"))
    lora, weight = values.pop("lora", NO_LORA), values.pop("lora_weight", 1.0)
    loras = None if lora == NO_LORA else [{"path": _loras(base)[lora], "weight": weight}]
    return configure(base, limits, skeleton=None if path is None else str(path), lora=loras, **values)


def _loras(config: GenerateConfig) -> dict[str, str]:
    """Return the LoRAs to choose from: name for clients -> path, as in the config."""
    entries = config.lora if isinstance(config.lora, list) else [config.lora]
    given = [entry["path"] if isinstance(entry, dict) else entry for entry in entries if entry is not None]
    files = [Path(lora.path) for lora in open_loras(given)]
    names = [file.parent.name if file.stem == "pytorch_lora_weights" else file.stem for file in files]
    return dict(zip(names, given, strict=True))
