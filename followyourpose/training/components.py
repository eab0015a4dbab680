"""Components: the networks at the start of a run, and their export as a pipeline's folder.

A folder with a config.yaml is a run: its networks are those of its own `init`, with the trained weights in the place of
theirs or, of a LoRA, added to theirs. So a chain of runs (base, stage 1, stage 2) is a chain of differences, and each
run stores only the weights that it trained.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, PreTrainedModel

from followyourpose.common.files import atomic_write, new_folder, read_json
from followyourpose.config import TrainConfig, find_model
from followyourpose.models.inflate import NEW_LAYERS, inflate
from followyourpose.models.loading import load_network, model_kind
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import VideoUNet
from followyourpose.pipeline import image_model
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pose.detector import PuppetDetector
from followyourpose.training.checks import WEIGHTS, chain, config_of, is_run, root_folder
from followyourpose.training.lora import add_lora, merge_lora, save_lora
from followyourpose.training.run_dir import check_frozen, trained_weights


def load_component(folder: str | Path, name: str, scratch: bool = False) -> nn.Module:
    """Load one network of a pipeline folder or of a run, in float32; with `scratch` its shape, with random weights.

    An image UNet comes as the image model's own class. A pose encoder that is not there yet starts at zero.

    Raises:
        ValueError: the component is missing, or a run has not finished; the folder and the name are in the message.
    """
    folder = find_model(folder, "init")
    if scratch or not is_run(folder):
        return _read(root_folder(folder), name, scratch)
    run = config_of(folder)
    if name == "text_encoder" and "clip" in run.scratch:
        return _text_tower(load_component(folder, "clip"))
    weights = trained_weights(folder)
    trained = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    module = load_component(run.init, name, scratch=name in run.scratch)
    changes = run.network.changes()
    if name == "unet" and (changes or not trained.keys() <= module.state_dict().keys()):
        module = as_video(module, changes)
    check_frozen(folder / WEIGHTS, {name: fingerprint(module, trained.keys())}, run.init)
    is_lora = trained and run.lora.rank is not None
    if is_lora:
        add_lora(module, run.lora)
    _, unexpected = module.load_state_dict(trained, strict=False)
    if unexpected:
        raise ValueError(f"{folder}: trained weights do not fit {name}: {sorted(unexpected)[:3]}")
    if is_lora:
        merge_lora(module)
    return module


def fingerprint(module: nn.Module, trained: Collection[str] = ()) -> str:
    """Twelve hex digits that identify a network's weights, without those named in `trained`.

    Of each tensor some 256 values count, so that it takes a second at the size of Stable Diffusion, in half precision,
    so that a network and its export are the same. Layers that inflation adds are left out, since no run builds on them
    before stage 2 trains them. A LoRA is left out too, and the layers below it have their usual names.
    """
    digest = hashlib.sha256()
    weights = {key.replace(".base_layer.", "."): value for key, value in module.state_dict().items()}
    for key, tensor in sorted(weights.items()):
        if key not in trained and not any(f".{layer}." in key for layer in (*NEW_LAYERS, "lora_A", "lora_B")):
            values = tensor.detach().flatten()
            values = values[:: max(1, len(values) // 256)].half().cpu().numpy()
            digest.update(f"{key} {tuple(tensor.shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:12]


def as_video(unet: UNet2DConditionModel | VideoUNet, changes: Mapping[str, Any] | None = None) -> VideoUNet:
    """Return a video UNet: the given one, or an image UNet inflated. `changes` are those of a NetworkConfig."""
    return unet if isinstance(unet, VideoUNet) and not changes else inflate(unet, changes)


def _read(folder: Path, name: str, scratch: bool) -> nn.Module:
    if name == "pose_encoder" and model_kind(folder) == "image":
        vae = read_json(folder / "vae" / "config.json")
        unet = read_json(folder / "unet" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return PoseEncoder(block_out_channels=unet["block_out_channels"], downscale=factor)
    config = folder / name / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder}: component {name} is missing (no {config})")
    cls = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "clip": CLIPModel, "detector": PuppetDetector,
           "pose_encoder": PoseEncoder, "unet": UNet2DConditionModel}[name]  # fmt: skip
    if name == "unet" and model_kind(folder) == "pipeline":
        cls = VideoUNet
    elif name == "unet":
        image_model.check_unet(folder)
    return _from_config(cls, config) if scratch else load_network(folder / name, cls).float()


def _from_config(cls: type[nn.Module], config: Path) -> nn.Module:
    if issubclass(cls, PreTrainedModel):
        return cls(cls.config_class.from_json_file(config))
    module = cls.from_config(read_json(config))
    return _start_sharp(module) if cls is AutoencoderKL else module


def _start_sharp(vae: AutoencoderKL) -> AutoencoderKL:
    """Start an autoencoder with residual blocks that are identities, and with a narrow posterior.

    With the usual start every latent channel is mostly its own noise; half of them drown in it and stay unused.
    """
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
    channels = vae.config.latent_channels
    nn.init.zeros_(vae.quant_conv.weight[channels:])
    nn.init.constant_(vae.quant_conv.bias[channels:], -6.0)  # log variance
    return vae


def _text_tower(clip: CLIPModel) -> CLIPTextModel:
    """CLIP's text tower by itself, the text encoder of Stable Diffusion."""
    tower = CLIPTextModel(clip.config.text_config)
    tower.load_state_dict(clip.text_model.state_dict())
    return tower


def load_tokenizer(folder: str | Path) -> CLIPTokenizer:
    """Load the tokenizer of the pipeline folder at the start of a chain of runs."""
    return image_model.load_tokenizer(root_folder(folder))


def load_scheduler(folder: str | Path) -> DDIMScheduler:
    """Load the noise schedule of the pipeline folder at the start of a chain of runs, as a DDIM scheduler.

    Raises:
        ValueError: the model predicts neither noise nor velocity.
    """
    folder = root_folder(folder)
    scheduler = image_model.load_scheduler(folder)
    if (kind := scheduler.config.prediction_type) not in ("epsilon", "v_prediction"):
        raise ValueError(f"{folder / 'scheduler'}: got prediction_type {kind!r}, expected epsilon or v_prediction")
    return scheduler


def load_components(config: TrainConfig, names: Sequence[str], shapes: Path | None = None) -> nn.ModuleDict:
    """Load the networks of a run, by name, as they are before it trains.

    An image UNet is inflated, unless it starts from random weights or is trained on images alone: then it stays in its
    own class, and its export is an image model's folder again.

    Args:
        shapes: a folder of configs to build them from, with random weights; None: they are those of `config.init`.
    """
    if shapes is None:
        parts = {name: load_component(config.init, name, name in config.scratch) for name in names}
    else:
        parts = {name: _read(shapes, name, scratch=True) for name in names}
    changes = config.network.changes()
    image_only = config.data.num_frames == 1 and not config.data.skeleton and config.lora.rank is None and not changes
    if "unet" in parts and "unet" not in config.scratch and not image_only:
        parts["unet"] = as_video(parts["unet"], changes)
    return nn.ModuleDict(parts)


def export(run: str | Path, output: str | Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the networks of a run as a whole folder that the pipelines load.

    A run that trains an image UNet gives a Stable Diffusion folder, later ones a FollowYourPosePipeline's; a CLIP
    or a detector, which are in no pipeline, are written by themselves, and so is a LoRA, in diffusers' format.

    Raises:
        ValueError: the folder is no finished run, or the output is there already; nothing is overwritten.
    """
    run, output = Path(run), Path(output)
    if not is_run(run):
        raise ValueError(f"{run}: is no run (it has no config.yaml)")
    config = config_of(run)
    with new_folder(output) as folder:
        if config.objective == "contrast":
            load_component(run, "clip").to(dtype).save_pretrained(folder)
            load_tokenizer(run).save_pretrained(folder)
        elif config.objective == "locate":
            load_component(run, "detector").to(dtype).save_pretrained(folder)
        elif config.lora.rank is not None:
            base = as_video(load_component(config.init, "unet"))
            facts = {"base_model": find_model(config.init, "init").name, "base_fingerprint": fingerprint(base)}
            save_lora(trained_weights(run), config.lora, folder, facts, dtype)
        else:
            _pipeline(run).to(dtype=dtype).save_pretrained(folder)
        for file in folder.rglob("config.json"):  # diffusers writes the path of a network on this machine
            content = read_json(file)
            content.pop("_name_or_path", None)
            atomic_write(file, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return output


def _pipeline(run: Path) -> DiffusionPipeline:
    parts = {name: load_component(run, name) for name in ("vae", "text_encoder", "unet")}
    parts |= {"tokenizer": load_tokenizer(run), "scheduler": load_scheduler(run)}
    if isinstance(parts["unet"], UNet2DConditionModel) and not _trains_pose(run):
        return StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    unet = as_video(parts.pop("unet"))
    return FollowYourPosePipeline(**parts, unet=unet, pose_encoder=load_component(run, "pose_encoder"))


def _trains_pose(folder: Path) -> bool:
    """Whether a run, or one before it, trained a pose encoder."""
    runs = filter(is_run, chain(folder))
    return any(name.startswith("pose_encoder.") for run in runs for name in trained_weights(run))
