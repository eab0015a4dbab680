"""FollowYourPosePipeline (arXiv 2304.01186): a diffusers pipeline from prompts and a skeleton clip to videos.

b videos   f frames   c channels   h w latent height and width   H W pixels   t text tokens   d text width
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, SchedulerMixin
from diffusers.utils import BaseOutput, logging
from einops import rearrange
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from followyourpose.common.checks import check_at_least
from followyourpose.common.pictures import to_uint8
from followyourpose.models.adapters import scaled_loras
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import TextCache, VideoUNet, text_count
from followyourpose.pipeline.additions import Additions
from followyourpose.pipeline.call import CALLBACK_TENSORS, Call, OutputType, takes_call
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.denoise import StreamState, check_state, denoise
from followyourpose.pipeline.image_model import vae_scale_factor
from followyourpose.pipeline.inputs import PoseGuidance, check_finite_tensor, check_texts
from followyourpose.pipeline.job import Job, prepare
from followyourpose.pipeline.loading import Loading
from followyourpose.pipeline.running import RunningCall

logger = logging.get_logger(__name__)


@dataclass
class FollowYourPoseOutput(BaseOutput):
    """The videos of one call, by `output_type`.

    np: float32 array (b, f, H, W, 3) in [0, 1]. pt: tensor (b, f, 3, H, W) in [0, 1]. pil: b lists of f images.
    latent: tensor (b, c, f, h, w), scaled as the UNet sees them.
    """

    videos: np.ndarray | Tensor | list[list[Image.Image]]

    @property
    def frames(self) -> np.ndarray | Tensor | list[list[Image.Image]]:
        """The videos by the name that diffusers' video pipelines give them: array (b, f, H, W, 3) or the like."""
        return self.videos


class FollowYourPosePipeline(Additions, RunningCall, Loading):
    """Generates videos from prompts, with the poses of a skeleton clip.

    Loading, saving, devices, offload, progress bar, LoRAs and textual inversion are diffusers'. Any scheduler of
    diffusers that predicts noise or velocity on latents can take the place of the default, DDIM. A component may be
    None, where no call needs it.
    """

    model_cpu_offload_seq = "text_encoder->pose_encoder->unet->vae"
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    _optional_components = ["vae", "text_encoder", "tokenizer", "unet", "pose_encoder", "scheduler"]

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: VideoUNet
    pose_encoder: PoseEncoder
    scheduler: SchedulerMixin

    def __init__(
        self,
        vae: AutoencoderKL | None,
        text_encoder: CLIPTextModel | None,
        tokenizer: CLIPTokenizer | None,
        unet: VideoUNet | None,
        pose_encoder: PoseEncoder | None,
        scheduler: SchedulerMixin | None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            pose_encoder=pose_encoder,
            scheduler=scheduler,
        )
        factors = [] if vae is None else [vae_scale_factor(vae)]
        factors += [] if pose_encoder is None else [pose_encoder.config.downscale]
        if len(set(factors)) > 1:
            raise ValueError(f"pose_encoder: got downscale {factors[1]}, expected the VAE's factor {factors[0]}")
        self.vae_scale_factor = factors[0] if factors else 8  # of Stable Diffusion

    def compile(self, kind: str = "full") -> None:
        """Compile the UNet: "full", as one graph, minutes at its first call, or "regional", each kind of block once.

        Load a LoRA before. With `cache_interval` above 1, or guidance in an interval, there are twice as many graphs.
        """
        self.unet.compile_as(kind)

    # ---- generation -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    @takes_call
    def __call__(self, *args: Any, **kwargs: Any) -> FollowYourPoseOutput | tuple[Any]:
        """Generate b = max(prompts, skeletons) * num_videos_per_prompt videos, those of one prompt side by side."""
        call = Call(*args, **kwargs)
        latents = torch.cat(list(denoise(prepare(self, call), StreamState())), dim=2)
        videos = self._output(latents, call)
        self.maybe_free_model_hooks()
        return FollowYourPoseOutput(videos=videos) if call.return_dict else (videos,)

    @torch.no_grad()
    @takes_call
    def stream(self, *args: Any, state: StreamState | None = None, **kwargs: Any) -> Iterator[Any]:
        """Generate as a call does, from the same arguments, and yield frames as soon as no window changes them again.

        The parts follow one another without gap or overlap, each in the form of `output_type`: by default arrays
        (b, n, H, W, 3) in [0, 1]. In memory are one window and, of the whole video, the initial noise; of windows that
        are denoised together, all latents.

        `state` is the position to begin at; before each part it is brought to the position after it, for another stream
        of the same arguments to go on there. That one needs its generators in the state of the beginning, and raises a
        StateError where the state does not fit. An argument that a call does not have is a TypeError. All of these
        are raised before the first part.
        """
        call, state = Call(*args, **kwargs), StreamState() if state is None else state
        job = prepare(self, call)
        check_state(job, state)
        return self._stream(job, state)

    @torch.no_grad()
    def _stream(self, job: Job, state: StreamState) -> Iterator[Any]:
        for latents in denoise(job, state):
            yield self._output(latents, job.call)
        self.maybe_free_model_hooks()

    def _output(self, latents: Tensor, call: Call) -> Any:
        if call.output_type == "latent":
            return latents
        return self.decode(latents, call.decode_chunk_size, call.output_type)

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        condition: Condition,
        guidance_scale: float | Tensor,
        step: int = 0,
        steps: int = 1,
    ) -> Tensor:
        """Predict the noise (b, c, f, h, w) of latents (b, c, f, h, w) at one timestep (), at step 0 ... steps - 1.

        Under guidance u + w (c - u) of the unconditional and the conditional prediction (Ho and Salimans 2022,
        arXiv 2207.12598, in the convention where w = 1 is no guidance); else the conditional one. The scale is w, or
        (b, 1, f, 1, 1), which is guidance.
        """
        guided = isinstance(guidance_scale, Tensor) or guidance_scale > 1
        text, features = condition.at(step, steps, len(latents), guided)
        # One memory layout, whatever the scheduler left: a compiled UNet has a graph for it.
        x = self.scheduler.scale_model_input(latents, timestep).contiguous()
        if timestep.device != x.device:
            timestep = torch.full((), timestep.item(), device=x.device)  # a copy from the CPU would wait for the GPU
        x, loras = condition.with_loras(x, text_count(text))
        with scaled_loras(self.unet, self.cross_attention_scale, loras):
            if condition.cache_interval == 1:
                prediction = self.unet(x, timestep, text, features)
            else:
                deep = condition.deep_at(step, rows=text_count(text) * x.shape[2])
                prediction, condition.deep = self.unet(x, timestep, text, features, deep, return_deep=True)
        if len(prediction) == len(latents):
            return prediction
        unconditional, conditional = prediction.chunk(2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
        return rescaled(prediction, conditional, self.guidance_rescale) if self.guidance_rescale else prediction

    # ---- conditions -------------------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        clip_skip: int | None = None,
        lora_scale: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Encode n prompts and their negatives: two of (n, t, d). Given embeddings are taken as they are.

        Args:
            clip_skip: last layers of the text encoder to skip; None: none.
            lora_scale: factor of the text encoder's LoRAs.

        Raises:
            ValueError: a prompt is neither text nor a list of texts, the numbers do not fit, or some are not finite.
        """
        embeds, unet = [], self.unet  # a pipeline that encodes prompts alone has none
        device = self._execution_device  # looked for among all modules
        width = self.text_encoder.config.hidden_size if unet is None else unet.config.cross_attention_dim
        for name, texts, given in (
            ("prompt", prompt, prompt_embeds),
            ("negative_prompt", negative_prompt or "", negative_prompt_embeds),
        ):
            encoded = self._encode(name, texts, clip_skip, lora_scale, device) if given is None else given
            if encoded.ndim != 3 or encoded.shape[2] != width:
                raise ValueError(f"{name}_embeds: got {tuple(encoded.shape)}, expected (n, t, {width})")
            embeds.append(encoded.to(device, encoded.dtype if unet is None else unet.dtype))
            check_finite_tensor(name if given is None else f"{name}_embeds", embeds[-1])
        if len(embeds[1]) not in (1, len(embeds[0])) or embeds[0].shape[1:] != embeds[1].shape[1:]:
            raise ValueError(
                f"negative_prompt: got embeddings {tuple(embeds[1].shape)}, expected one or as many as prompts, "
                f"{tuple(embeds[0].shape)}"
            )
        return embeds[0], embeds[1].expand_as(embeds[0])

    def _encode(self, name: str, texts: Any, clip_skip: int | None, lora_scale: float, device: torch.device) -> Tensor:
        """Encode a text or a list of texts: (n, t, d)."""
        texts = self.maybe_convert_prompt(check_texts(name, texts), self.tokenizer)
        length = min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings)
        for text, ids in zip(texts, self.tokenizer(texts).input_ids, strict=True):
            if len(ids) > length:
                ignored = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning(f"{name} {text!r:.60} is longer than {length} tokens; ignored: {ignored!r}")
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        ids = tokens.input_ids.to(device)
        with scaled_loras(self.text_encoder, lora_scale):
            if clip_skip is None:
                return self.text_encoder(ids).last_hidden_state
            check_at_least("clip_skip", clip_skip, 0, self.text_encoder.config.num_hidden_layers - 1)
            hidden = self.text_encoder(ids, output_hidden_states=True).hidden_states[-1 - clip_skip]
            model = getattr(self.text_encoder, "text_model", self.text_encoder)  # transformers 5 has no such part
            return model.final_layer_norm(hidden)

    def encode_text(
        self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor, count: int, per_prompt: int, guided: bool
    ) -> TextCache:
        """Project prompts (n, [s,] t, d) to every layer's keys and values, once each, and repeat them for b videos."""
        halves = [negative_prompt_embeds, prompt_embeds] if guided else [prompt_embeds]
        texts = torch.cat(halves)
        with scaled_loras(self.unet, self.cross_attention_scale):
            cache = self.unet.encode_text(texts.flatten(0, -3))

        def spread(x: Tensor) -> Tensor:
            x = x.unflatten(0, texts.shape[:-2])
            return torch.cat([_for_videos(half, count, per_prompt) for half in x.chunk(len(halves))])

        return [[tuple(spread(x) for x in context) for context in block] for block in cache]

    def encode_pose(
        self,
        skeleton: Tensor,
        count: int,
        per_prompt: int,
        guided: bool,
        pose_guidance: PoseGuidance = "both",
        pose_scale: float | Tensor = 1.0,
    ) -> list[Tensor]:
        """Encode skeletons (n, 3, f, H, W) in [0, 1], once each, scale the features and repeat them for b videos.

        The unconditional half gets the same or, under "conditional", zeros, which to the UNet is no pose. The scale is
        a number, or one for each frame, (f, 1, 1).
        """
        features = self.pose_encoder(skeleton.to(self._execution_device, self.pose_encoder.dtype))
        features = [_for_videos(x * pose_scale, count, per_prompt).to(self.unet.dtype) for x in features]
        if not guided:
            return features
        return [torch.cat([x if pose_guidance == "both" else torch.zeros_like(x), x]) for x in features]

    # ---- pixels -----------------------------------------------------------------------------------------------------

    def enable_vae_slicing(self) -> None:
        """Decode one frame at a time."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Decode `decode_chunk_size` frames at a time again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Decode large frames in overlapping tiles."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Decode frames whole again."""
        self.vae.disable_tiling()

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk_size: int = 8, output_type: OutputType = "np") -> Any:
        """Decode latents (b, c, f, h, w), `chunk_size` frames at a time; see `FollowYourPoseOutput` for the types."""
        config = self.vae.config
        frames = rearrange(latents, "b c f h w -> (b f) c h w").to(self.vae.dtype)
        frames = frames / config.scaling_factor + (config.get("shift_factor") or 0)
        decoded = [(self.vae.decode(x).sample / 2 + 0.5).float() for x in frames.split(chunk_size)]
        pixels = torch.cat(decoded)
        if not pixels.isfinite().all():
            check_finite_tensor("latents", latents)
            remedy = "use bfloat16 or float32" if self.vae.dtype == torch.float16 else "the model is damaged"
            raise ValueError(f"the VAE gives pixels that are not finite in {self.vae.dtype}: {remedy}")
        videos = rearrange(pixels.clamp(0, 1), "(b f) c h w -> b f c h w", b=len(latents))
        if output_type == "pt":
            return videos
        arrays = rearrange(videos, "b f c h w -> b f h w c").cpu().numpy()
        if output_type == "np":
            return arrays
        return [[Image.fromarray(frame) for frame in video] for video in to_uint8(arrays)]


def rescaled(guided: Tensor, conditional: Tensor, share: float) -> Tensor:
    """Return a guided prediction (b, ...), a share of it brought to the standard deviation of the conditional one.

    share * guided * std(conditional) / std(guided) + (1 - share) * guided, of each video (Lin et al. 2023,
    arXiv 2305.08891, equations 15 and 16).
    """
    over = list(range(1, guided.ndim))
    factor = conditional.std(over, keepdim=True) / guided.std(over, keepdim=True)
    return share * (guided * factor) + (1 - share) * guided


def _for_videos(x: Tensor, count: int, per_prompt: int) -> Tensor:
    """Repeat x (1 or count, ...) to (count * per_prompt, ...), the copies of one side by side, in its memory format."""
    rows = x.split(1) if len(x) == count else [x] * count
    return torch.cat([row for row in rows for _ in range(per_prompt)])


# `DiffusionPipeline.from_pretrained` looks the class that a folder's index names up here.
setattr(diffusers, FollowYourPosePipeline.__name__, FollowYourPosePipeline)
