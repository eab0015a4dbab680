"""FollowYourPosePipeline (arXiv 2304.01186): a diffusers pipeline from prompts and a skeleton clip to videos.

b videos   f frames   c channels   h w latent height and width   H W pixels   t text tokens   d text width
"""

import inspect
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from diffusers.utils import BaseOutput, logging
from einops import rearrange
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from followyourpose.common.files import atomic_write, read_json
from followyourpose.common.pictures import to_uint8
from followyourpose.models.inflate import inflate
from followyourpose.models.loading import model_kind
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import TextCache, VideoUNet, text_count
from followyourpose.pipeline.call import CALLBACK_TENSORS, Call, OutputType, takes_call
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.denoise import StreamState, check_state, denoise
from followyourpose.pipeline.image_model import load_image_model
from followyourpose.pipeline.inputs import PoseGuidance, check_finite_tensor, check_texts
from followyourpose.pipeline.job import Job, prepare
from followyourpose.pipeline.lora import check_lora

logger = logging.get_logger(__name__)


@dataclass
class FollowYourPoseOutput(BaseOutput):
    """The videos of one call, by `output_type`.

    np: float32 array (b, f, H, W, 3) in [0, 1]. pt: tensor (b, f, 3, H, W) in [0, 1]. pil: b lists of f images.
    latent: tensor (b, c, f, h, w), scaled as the UNet sees them.
    """

    videos: np.ndarray | Tensor | list[list[Image.Image]]


class FollowYourPosePipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """Generates videos from prompts, with the poses of a skeleton clip.

    Loading, saving, devices, offload, progress bar, LoRAs and textual inversion are diffusers'. Any scheduler of
    diffusers that predicts noise or velocity on latents can take the place of the default, DDIM.
    """

    model_cpu_offload_seq = "text_encoder->pose_encoder->unet->vae"
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: VideoUNet
    pose_encoder: PoseEncoder
    scheduler: SchedulerMixin

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: VideoUNet,
        pose_encoder: PoseEncoder,
        scheduler: SchedulerMixin,
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
        self.vae_scale_factor = vae_scale_factor(vae)
        if pose_encoder.config.downscale != self.vae_scale_factor:
            raise ValueError(
                f"pose_encoder: got downscale {pose_encoder.config.downscale}, expected the VAE's factor "
                f"{self.vae_scale_factor}"
            )
        self._interrupt = False

    # ---- loading ----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, path: str | Path, **kwargs: Any) -> "FollowYourPosePipeline":
        """Load a folder written by `save_pretrained`; arguments as for `DiffusionPipeline.from_pretrained`.

        Weights become float32, however they are stored, unless `dtype` (or `torch_dtype`) is given.

        Raises:
            ValueError: the folder or a component is missing or broken, or weights of UNet or pose encoder do not fit.
        """
        folder = Path(path)
        if folder.exists():
            cls._check_components(folder, given=kwargs.keys())
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.float32  # else only the text encoder would keep its stored dtype
        try:
            return super().from_pretrained(path, **kwargs)
        except OSError as error:
            kind = "cannot be read" if folder.exists() else "no such folder, and cannot be read as a model of the hub"
            raise ValueError(f"{path}: {kind} ({' '.join(str(error).split())[:300]})") from error

    @classmethod
    def _check_components(cls, folder: Path, given: Collection[str]) -> None:
        """Raise a ValueError that names the first component, of those not given, that the folder lacks."""
        if model_kind(folder) == "file":
            raise ValueError(f"{folder}: is a file, expected a folder of {cls.__name__} (from_image_model reads files)")
        index = cls.load_config(folder)
        for name in sorted(inspect.signature(cls.__init__).parameters.keys() - {"self", *given}):
            library, kind = index.get(name) or (None, None)
            if library is None:
                raise ValueError(
                    f"{folder}: component {name!r} is missing from {cls.config_name}; expected a folder of "
                    f"{cls.__name__}, got one of {index.get('_class_name')} (from_image_model reads image models)"
                )
            if not (folder / name).is_dir():
                raise ValueError(f"{folder}: component {name!r} is missing; expected {name}/ with a {kind} there")

    @classmethod
    def from_image_model(
        cls, path: str | Path, *, dtype: torch.dtype = torch.float32, config: str | Path | None = None
    ) -> "FollowYourPosePipeline":
        """Start from Stable Diffusion 1.x: its UNet inflated, a zero-started pose encoder; on one frame, that model.

        Args:
            path: a diffusers folder, or a single .safetensors or .ckpt file.
            dtype: of all weights.
            config: for a single file, a diffusers folder with its configs and tokenizer; None: diffusers takes those of
                Stable Diffusion 1.5 from its cache or the hub.

        Raises:
            ValueError: nothing is there, a component is missing or broken, or it is no Stable Diffusion 1.x.
        """
        parts = load_image_model(path, dtype, config)
        unet = inflate(parts["unet"]).eval()
        pose_encoder = PoseEncoder(
            block_out_channels=unet.config.block_out_channels, downscale=vae_scale_factor(parts["vae"])
        )
        pose_encoder = pose_encoder if pose_encoder.dtype == dtype else pose_encoder.to(dtype)
        return cls(**parts | {"unet": unet, "pose_encoder": pose_encoder.eval()})

    def save_pretrained(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Write a folder for `from_pretrained`; arguments as for `DiffusionPipeline.save_pretrained`."""
        super().save_pretrained(path, *args, **kwargs)
        for file in (Path(path) / self.config_name, *Path(path).glob("*/config.json")):
            content = read_json(file)
            if content.pop("_name_or_path", None) is not None:  # a path of this machine means nothing elsewhere
                atomic_write(file, json.dumps(content, indent=2, sort_keys=True) + "\n")

    def load_lora_weights(self, source: str | Path | dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Load a LoRA of kohya's or diffusers' format into UNet and text encoder; arguments as for diffusers' method.

        Raises:
            ValueError: it cannot be read, or does not fit this model; the message names a layer and its shapes. Nothing
                is loaded then.
        """
        name = "the given weights" if isinstance(source, dict) else str(source)
        source = source.copy() if isinstance(source, dict) else str(source)
        try:
            state_dict, *_ = self.lora_state_dict(source if isinstance(source, str) else source.copy(), **kwargs)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{name}: cannot be read as a LoRA ({' '.join(str(error).split())[:300]})") from error
        check_lora(name, state_dict, {"unet": self.unet, "text_encoder": self.text_encoder})
        super().load_lora_weights(source, *args, **kwargs)

    @classmethod
    def load_lora_into_text_encoder(cls, state_dict: dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Load the text encoder's part of a LoRA, where there is one; diffusers would warn of none."""
        if any(name.startswith(f"{cls.text_encoder_name}.") for name in state_dict):
            super().load_lora_into_text_encoder(state_dict, *args, **kwargs)

    def compile(self) -> None:
        """Compile the UNet to one graph per shape: minutes at its first call, and faster steps from then on.

        Load a LoRA before. With `cache_interval` above 1, or guidance in an interval, there are two graphs.
        """
        self.unet.compile(fullgraph=True, dynamic=False)

    # ---- generation -------------------------------------------------------------------------------------------------

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: the denoising ends after the current step."""
        return self._interrupt

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
        guidance_scale: float,
        step: int = 0,
        steps: int = 1,
    ) -> Tensor:
        """Predict the noise (b, c, f, h, w) of latents (b, c, f, h, w) at one timestep (), at step 0 ... steps - 1.

        Under guidance u + w (c - u) of the unconditional and the conditional prediction (Ho and Salimans 2022,
        arXiv 2207.12598, in the convention where w = 1 is no guidance); else the conditional one.
        """
        text, features = condition.at(step, steps, len(latents))
        # One memory layout, whatever the scheduler left: a compiled UNet has a graph for it.
        x = self.scheduler.scale_model_input(latents, timestep).contiguous()
        if condition.cache_interval == 1:
            prediction = self.unet(x, timestep, text, features)
        else:
            deep = condition.deep_at(step, rows=text_count(text) * x.shape[2])
            prediction, condition.deep = self.unet(x, timestep, text, features, deep, return_deep=True)
        if len(prediction) == len(latents):
            return prediction
        unconditional, conditional = prediction.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    # ---- conditions -------------------------------------------------------------------------------------------------

    def encode_prompt(
        self,
        prompt: str | list[str] | None,
        negative_prompt: str | list[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode n prompts and their negatives: two of (n, t, d). Given embeddings are taken as they are.

        Raises:
            ValueError: a prompt is neither text nor a list of texts, the numbers do not fit, or some are not finite.
        """
        embeds, width = [], self.unet.config.cross_attention_dim
        for name, texts, given in (
            ("prompt", prompt, prompt_embeds),
            ("negative_prompt", negative_prompt or "", negative_prompt_embeds),
        ):
            encoded = self._encode(name, texts) if given is None else given
            if encoded.ndim != 3 or encoded.shape[2] != width:
                raise ValueError(f"{name}_embeds: got {tuple(encoded.shape)}, expected (n, t, {width})")
            embeds.append(encoded.to(self._execution_device, self.unet.dtype))
            check_finite_tensor(name if given is None else f"{name}_embeds", embeds[-1])
        if len(embeds[1]) not in (1, len(embeds[0])) or embeds[0].shape[1:] != embeds[1].shape[1:]:
            raise ValueError(
                f"negative_prompt: got embeddings {tuple(embeds[1].shape)}, expected one or as many as prompts, "
                f"{tuple(embeds[0].shape)}"
            )
        return embeds[0], embeds[1].expand_as(embeds[0])

    def _encode(self, name: str, texts: Any) -> Tensor:
        """Encode a text or a list of texts: (n, t, d)."""
        texts = self.maybe_convert_prompt(check_texts(name, texts), self.tokenizer)
        length = self.tokenizer.model_max_length
        for text, ids in zip(texts, self.tokenizer(texts).input_ids, strict=True):
            if len(ids) > length:
                ignored = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning(f"{name} {text!r:.60} is longer than {length} tokens; ignored: {ignored!r}")
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self._execution_device)).last_hidden_state

    def encode_text(
        self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor, count: int, per_prompt: int, guided: bool
    ) -> TextCache:
        """Project prompts (n, t, d) to every layer's keys and values, once each, and repeat them for b videos."""
        halves = [negative_prompt_embeds, prompt_embeds] if guided else [prompt_embeds]
        cache = self.unet.encode_text(torch.cat(halves))

        def spread(x: Tensor) -> Tensor:
            return torch.cat([_for_videos(half, count, per_prompt) for half in x.chunk(len(halves))])

        return [[(spread(k), spread(v)) for k, v in block] for block in cache]

    def encode_pose(
        self,
        skeleton: Tensor,
        count: int,
        per_prompt: int,
        guided: bool,
        pose_guidance: PoseGuidance = "both",
        pose_scale: float = 1.0,
    ) -> list[Tensor]:
        """Encode skeletons (n, 3, f, H, W) in [0, 1], once each, scale the features and repeat them for b videos.

        The unconditional half gets the same or, under "conditional", zeros, which to the UNet is no pose.
        """
        features = self.pose_encoder(skeleton.to(self._execution_device, self.pose_encoder.dtype))
        features = [_for_videos(x * pose_scale, count, per_prompt).to(self.unet.dtype) for x in features]
        if not guided:
            return features
        return [torch.cat([x if pose_guidance == "both" else torch.zeros_like(x), x]) for x in features]

    # ---- pixels -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk_size: int = 8, output_type: OutputType = "np") -> Any:
        """Decode latents (b, c, f, h, w), `chunk_size` frames at a time; see `FollowYourPoseOutput` for the types."""
        config = self.vae.config
        frames = rearrange(latents, "b c f h w -> (b f) c h w").to(self.vae.dtype)
        frames = frames / config.scaling_factor + (config.shift_factor or 0)
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


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """Return the VAE's factor from latents to pixels."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _for_videos(x: Tensor, count: int, per_prompt: int) -> Tensor:
    """Repeat x (1 or count, ...) to (count * per_prompt, ...), the copies of one side by side."""
    return x.expand(count, *x.shape[1:]).repeat_interleave(per_prompt, dim=0)
