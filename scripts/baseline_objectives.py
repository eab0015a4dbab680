"""Objectives of other systems' networks, each diffusers' own, for the loop and the data of the stages.

Each network stands on the frozen base model. Letters: b clips, c latent channels, f frames, h w latent size.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, T2IAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from followyourpose.common.files import new_folder
from followyourpose.config import TrainConfig, load_config
from followyourpose.pipeline.pipeline import vae_scale_factor
from followyourpose.training.components import load_component
from followyourpose.training.objectives import Denoise
from followyourpose.training.run_dir import trained_weights


def new_controlnet(unet: UNet2DConditionModel, vae: AutoencoderKL) -> ControlNetModel:
    """Return an untrained ControlNet for a base model; its skeletons have the size of the frames."""
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(16, 32, 96, 256)[: int(math.log2(vae_scale_factor(vae))) + 1]
    )


def new_adapter(unet: UNet2DConditionModel, vae: AutoencoderKL) -> T2IAdapter:
    """Return an untrained T2I-Adapter for a base model."""
    return T2IAdapter(channels=list(unet.config.block_out_channels), downscale_factor=vae_scale_factor(vae))


def new_motion(unet: UNet2DConditionModel | UNetMotionModel) -> MotionAdapter:
    """Return AnimateDiff's motion modules, untrained, for a base model or in the shape of a network that has them."""
    has_them = isinstance(unet, UNetMotionModel)
    return MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_num_attention_heads=unet.config["motion_num_attention_heads" if has_them else "attention_head_dim"],
    )


class _OnImageModel(Denoise):
    """Objective on the base model in its own class, and a network beside it.

    Attributes:
        beside: name of the network among the parts -> function of the base's UNet and VAE that makes it.
    """

    needs = ("vae", "text_encoder", "unet")
    beside: Mapping[str, Callable[[UNet2DConditionModel, AutoencoderKL], nn.Module]] = {}

    @classmethod
    def load(cls, config: TrainConfig, shapes: Path | None = None) -> nn.ModuleDict:
        folder, scratch = shapes or config.init, shapes is not None
        parts = {name: load_component(folder, name, scratch) for name in cls.needs}
        return nn.ModuleDict(parts | {name: new(parts["unet"], parts["vae"]) for name, new in cls.beside.items()})

    @classmethod
    def network(cls, parts: nn.ModuleDict) -> nn.Module:
        """Return the trained part, in the class that diffusers loads it by."""
        (name,) = cls.beside
        return parts[name]


class ControlNet(_OnImageModel):
    """ControlNet (Zhang et al. 2023, arXiv 2302.05543): trainable `^controlnet`."""

    beside = {"controlnet": new_controlnet}

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor) -> Tensor:
        x, picture = noisy[:, :, 0], skeleton[:, :, 0]
        down, middle = self.parts["controlnet"](x, timestep, text, picture, return_dict=False)
        more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.parts["unet"](x, timestep, text, **more).sample[:, :, None]


class Adapter(_OnImageModel):
    """T2I-Adapter (Mou et al. 2023, arXiv 2302.08453): trainable `^adapter`."""

    beside = {"adapter": new_adapter}

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor) -> Tensor:
        features = self.parts["adapter"](skeleton[:, :, 0])
        prediction = self.parts["unet"](noisy[:, :, 0], timestep, text, down_intrablock_additional_residuals=features)
        return prediction.sample[:, :, None]


class Motion(_OnImageModel):
    """AnimateDiff's motion modules (Guo et al. 2023, arXiv 2307.04725): trainable `^unet.*motion_modules`."""

    @classmethod
    def load(cls, config: TrainConfig, shapes: Path | None = None) -> nn.ModuleDict:
        parts = super().load(config, shapes)
        unet = UNetMotionModel.from_unet2d(parts["unet"], new_motion(parts["unet"]))
        return nn.ModuleDict({**parts, "unet": unet})

    @classmethod
    def network(cls, parts: nn.ModuleDict) -> MotionAdapter:
        motion = new_motion(parts["unet"])
        motion.load_state_dict({key: value for key, value in parts["unet"].state_dict().items() if "motion_mod" in key})
        return motion

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: None) -> Tensor:
        text = text.repeat_interleave(noisy.shape[2], dim=0)  # this network takes one per frame
        return self.parts["unet"](noisy, timestep, text).sample


OBJECTIVES = {"controlnet": ControlNet, "t2i-adapter": Adapter, "animatediff": Motion}


def export_network(system: str, run: Path, output: Path) -> Path:
    """Write the network that a run trained as a folder that diffusers loads, in half precision.

    Raises:
        ValueError: the run has not finished or is another system's, or the output exists.
    """
    objective = OBJECTIVES[system]
    parts = objective.load(load_config(TrainConfig, run / "config.yaml"))
    if unexpected := parts.load_state_dict(trained_weights(run), strict=False).unexpected_keys:
        raise ValueError(f"{run}: its weights are not those of {system}: {unexpected[:3]}")
    with new_folder(output) as folder:
        objective.network(parts).half().save_pretrained(folder)
    return output
