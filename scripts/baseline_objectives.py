"""How the networks of other systems are trained on the puppets: by the same loop and data, each diffusers' own.

Every one of them stands on the frozen base model. Letters: b clips, c latent channels, f frames, h w latent size.
"""

import math

from diffusers import AutoencoderKL, ControlNetModel, MotionAdapter, T2IAdapter, UNet2DConditionModel, UNetMotionModel
from torch import Tensor, nn

from followyourpose.config import TrainConfig
from followyourpose.training.components import load_component
from followyourpose.training.objectives import Denoise

FRAMES = 32  # the most that a motion module is made for, as AnimateDiff's


class _OnImageModel(Denoise):
    """An objective on the base model in its own class, and a network beside it."""

    needs = ("vae", "text_encoder", "unet")

    @classmethod
    def load(cls, config: TrainConfig) -> nn.ModuleDict:
        return nn.ModuleDict({name: load_component(config.init, name) for name in cls.needs})


class ControlNet(_OnImageModel):
    """ControlNet (Zhang et al. 2023, arXiv 2302.05543): trainable `^controlnet`."""

    @classmethod
    def load(cls, config: TrainConfig) -> nn.ModuleDict:
        parts = super().load(config)
        return nn.ModuleDict({**parts, "controlnet": new_controlnet(parts["unet"], parts["vae"])})

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor) -> Tensor:
        x, picture = noisy[:, :, 0], skeleton[:, :, 0]
        down, middle = self.parts["controlnet"](x, timestep, text, picture, return_dict=False)
        more = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return self.parts["unet"](x, timestep, text, **more).sample[:, :, None]


class Adapter(_OnImageModel):
    """T2I-Adapter (Mou et al. 2023, arXiv 2302.08453): trainable `^adapter`."""

    @classmethod
    def load(cls, config: TrainConfig) -> nn.ModuleDict:
        parts = super().load(config)
        return nn.ModuleDict({**parts, "adapter": new_adapter(parts["unet"], parts["vae"])})

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: Tensor) -> Tensor:
        features = self.parts["adapter"](skeleton[:, :, 0])
        prediction = self.parts["unet"](noisy[:, :, 0], timestep, text, down_intrablock_additional_residuals=features)
        return prediction.sample[:, :, None]


class Motion(_OnImageModel):
    """AnimateDiff's motion modules (Guo et al. 2023, arXiv 2307.04725): trainable `^unet.*motion_modules`."""

    @classmethod
    def load(cls, config: TrainConfig) -> nn.ModuleDict:
        parts = super().load(config)
        unet = UNetMotionModel.from_unet2d(parts["unet"], new_motion(parts["unet"]))
        return nn.ModuleDict({**parts, "unet": unet})

    def predict(self, noisy: Tensor, timestep: Tensor, text: Tensor, skeleton: None) -> Tensor:
        text = text.repeat_interleave(noisy.shape[2], dim=0)  # this network takes one for each frame
        return self.parts["unet"](noisy, timestep, text).sample


OBJECTIVES = {"controlnet": ControlNet, "t2i-adapter": Adapter, "animatediff": Motion}


def new_controlnet(unet: UNet2DConditionModel, vae: AutoencoderKL) -> ControlNetModel:
    """A ControlNet for a base model, before training; it sees skeletons at the size of the frames."""
    return ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(16, 32, 96, 256)[: int(math.log2(vae_factor(vae))) + 1]
    )


def new_adapter(unet: UNet2DConditionModel, vae: AutoencoderKL) -> T2IAdapter:
    """A T2I-Adapter for a base model, before training."""
    return T2IAdapter(channels=list(unet.config.block_out_channels), downscale_factor=vae_factor(vae))


def new_motion(unet: UNet2DConditionModel) -> MotionAdapter:
    """AnimateDiff's motion modules for a base model, before training."""
    return MotionAdapter(
        block_out_channels=unet.config.block_out_channels,
        motion_layers_per_block=unet.config.layers_per_block,
        motion_norm_num_groups=unet.config.norm_num_groups,
        motion_num_attention_heads=unet.config.attention_head_dim,
        motion_max_seq_length=FRAMES,
    )


def vae_factor(vae: AutoencoderKL) -> int:
    """Pixels per latent, along a side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)
