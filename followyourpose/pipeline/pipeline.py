"""FollowYourPosePipeline (arXiv 2304.01186): prompts and a skeleton clip -> videos, as a diffusers pipeline.

b videos   f frames   c channels   h w latent height and width   H W pixels   t text tokens   d text width
"""

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

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

from followyourpose.common.checks import check_at_least, check_choice
from followyourpose.models.inflate import inflate
from followyourpose.models.pose_encoder import PoseEncoder
from followyourpose.models.unet import TextCache, VideoUNet, text_count
from followyourpose.pipeline.call import CALLBACK_TENSORS, Callback, Job, prepare
from followyourpose.pipeline.condition import Condition
from followyourpose.pipeline.denoise import StreamState, denoise
from followyourpose.pipeline.image_model import load_image_model
from followyourpose.pipeline.inputs import Noise, PoseGuidance, SkeletonFrames
from followyourpose.pipeline.lora import check_lora
from followyourpose.pipeline.windows import LongVideo

logger = logging.get_logger(__name__)

OutputType = Literal["np", "pt", "pil", "latent"]


@dataclass
class FollowYourPoseOutput(BaseOutput):
    """The videos of one call, by `output_type`.

    np: float32 array (b, f, H, W, 3) in [0, 1]. pt: tensor (b, f, 3, H, W) in [0, 1]. pil: b lists of f images.
    latent: tensor (b, c, f, h, w), scaled as the UNet sees them.
    """

    videos: np.ndarray | Tensor | list[list[Image.Image]]


class FollowYourPosePipeline(DiffusionPipeline, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """Generates videos from prompts, led by a skeleton clip.

    Loading, saving, devices, offload, progress bar, LoRAs and textual inversion are diffusers'. Any scheduler of
    diffusers that predicts noise or velocity on latents can take the place of the default, DDIM.
    """

    model_cpu_offload_seq = "text_encoder->pose_encoder->unet->vae"
    _callback_tensor_inputs = list(CALLBACK_TENSORS)

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
        """Loads a folder that `save_pretrained` wrote; arguments as for `DiffusionPipeline.from_pretrained`.

        Weights come in float32, however they are stored, unless `dtype` (or `torch_dtype`) says otherwise.

        Raises:
            ValueError: the folder or a component is missing or broken, or weights of UNet or pose encoder do not fit.
        """
        folder = Path(path)
        if folder.exists():
            if not (folder / cls.config_name).is_file():
                raise ValueError(f"{folder}: got no {cls.config_name}, expected a folder of {cls.__name__}")
            given, needed = cls.load_config(folder), inspect.signature(cls.__init__).parameters.keys() - {"self"}
            for name in sorted(needed - kwargs.keys()):
                library, kind = given.get(name) or (None, None)
                if library is None:
                    raise ValueError(
                        f"{folder}: component {name!r} is missing from {cls.config_name}; expected a folder of "
                        f"{cls.__name__}, got one of {given.get('_class_name')} (from_image_model reads image models)"
                    )
                if not (folder / name).is_dir():
                    raise ValueError(f"{folder}: component {name!r} is missing; expected {name}/ with a {kind} there")
        if not kwargs.keys() & {"dtype", "torch_dtype"}:
            kwargs["dtype"] = torch.float32  # else the text encoder would come as it is stored, and the others not
        try:
            return super().from_pretrained(path, **kwargs)
        except OSError as error:
            kind = "the folder" if folder.exists() else "no such folder, and as a model of the hub it"
            raise ValueError(f"{path}: {kind} cannot be read ({' '.join(str(error).split())[:300]})") from error

    @classmethod
    def from_image_model(
        cls, path: str | Path, *, dtype: torch.dtype = torch.float32, config: str | Path | None = None
    ) -> "FollowYourPosePipeline":
        """Starts from Stable Diffusion 1.x: its UNet inflated, a zero-started pose encoder; on one frame, that model.

        Args:
            path: a diffusers folder, or a single .safetensors or .ckpt file.
            dtype: of all weights.
            config: for a single file, a diffusers folder that has its configs and tokenizer; None lets diffusers take
                those of Stable Diffusion 1.5 from its cache or the hub.

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
        """Writes a folder for `from_pretrained`; arguments as for `DiffusionPipeline.save_pretrained`."""
        super().save_pretrained(path, *args, **kwargs)
        for file in (Path(path) / self.config_name, *Path(path).glob("*/config.json")):
            content = json.loads(file.read_text())
            if content.pop("_name_or_path", None) is not None:  # a path of this machine means nothing elsewhere
                file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")

    def load_lora_weights(self, source: str | Path | dict[str, Tensor], *args: Any, **kwargs: Any) -> None:
        """Loads a LoRA, kohya's or diffusers' format, into UNet and text encoder; arguments as for diffusers' method.

        Raises:
            ValueError: it cannot be read, or is none for this model: which layer has which shapes. Nothing is loaded.
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
        """Loads the text encoder's part of a LoRA; most have none, of which diffusers would warn."""
        if any(name.startswith(f"{cls.text_encoder_name}.") for name in state_dict):
            super().load_lora_into_text_encoder(state_dict, *args, **kwargs)

    def compile(self) -> None:
        """Compiles the UNet to one graph per shape, minutes at its first call and faster steps from then on.

        A LoRA is to be loaded before. With `cache_interval` above 1, or guidance in an interval, there are two graphs.
        """
        self.unet.compile(fullgraph=True, dynamic=False)

    # ---- generation -------------------------------------------------------------------------------------------------

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`, which ends the denoising after the current step."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        skeleton: np.ndarray | Tensor | SkeletonFrames | None = None,
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 12.5,
        negative_prompt: str | list[str] | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        pose_guidance: PoseGuidance = "both",
        pose_scale: float = 1.0,
        pose_start: float = 0.0,
        pose_end: float = 1.0,
        cache_interval: int = 1,
        noise: Noise = "independent",
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        eta: float = 0.0,
        long_video: LongVideo | None = None,
        decode_chunk_size: int = 8,
        output_type: OutputType = "np",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> FollowYourPoseOutput | tuple[Any]:
        """Generates b = max(prompts, skeletons) * num_videos_per_prompt videos, those of one prompt side by side.

        Args:
            prompt: one or several; None where `prompt_embeds` is given.
            skeleton: rendered frames on black, RGB: bytes (f, H, W, 3) or (n, f, H, W, 3) as a numpy array, or a
                floating-point tensor (3, f, H, W) or (n, 3, f, H, W) in [0, 1]. One skeleton serves all prompts; n
                of them go with n prompts, or all with one. None generates without a pose. A function gives the frames
                with the numbers that it is asked for in one of these forms, so that they need not all be in memory.
            num_frames: None takes the skeleton's, or one frame without a skeleton; a function needs it.
            height: pixels; None is the size the model was trained at.
            width: likewise.
            guidance_scale: w of classifier-free guidance; at 1 and below only the conditional half is computed.
            guidance_start: share of the denoising steps after which guidance begins; before, only the conditional half
                is computed (Kynkaanniemi et al. 2024, arXiv 2404.07724).
            guidance_end: share after which it ends; likewise.
            negative_prompt: in the unconditional half; one for all prompts or one each; None is "".
            pose_guidance: "both" halves of guidance see the skeleton, as released, or the "conditional" one only,
                so that guidance strengthens the pose as it does the text.
            pose_scale: multiplies the pose features; 0 is no pose.
            pose_start: share of the denoising steps after which the pose begins to act.
            pose_end: share after which it ends to.
            cache_interval: every how many-th step is a full one; the others compute the UNet's first level and take
                what lies below it from the last full one (DeepCache, Ma et al. 2023, arXiv 2312.00858). 1: all full.
            noise: between frames, see `initial_noise`.
            generator: one, or one per video; on the CPU it gives the same noise whatever the device.
            latents: noise (b, c, f, h, w) of variance 1 to start from; None draws it.
            prompt_embeds: (n, t, d), instead of `prompt`; likewise `negative_prompt_embeds`, (1 or n, t, d).
            eta: share of DDIM's stochastic term; other schedulers ignore it.
            long_video: how the video is divided into windows; None denoises it in one.
            decode_chunk_size: frames that the VAE decodes at a time.
            output_type: see `FollowYourPoseOutput`.
            callback_on_step_end: called with (pipeline, step, timestep, tensors) after each step; what it returns
                replaces the tensors of that name. Setting `pipeline._interrupt = True` ends the denoising. Steps are
                counted from 0 in each window where they are denoised one after the other; later frames have no latents
                yet, and never get any if it ends.
            callback_on_step_end_tensor_inputs: which of `CALLBACK_TENSORS` it gets.
            return_dict: False gives a tuple.

        Raises:
            ValueError: an argument of the wrong type, size or number; the message says what was expected.
        """
        check_choice("output_type", output_type, get_args(OutputType))
        check_at_least("decode_chunk_size", decode_chunk_size)
        job = prepare(
            self,
            prompt=prompt,
            skeleton=skeleton,
            num_frames=num_frames,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
            pose_guidance=pose_guidance,
            pose_scale=pose_scale,
            pose_start=pose_start,
            pose_end=pose_end,
            cache_interval=cache_interval,
            noise=noise,
            num_videos_per_prompt=num_videos_per_prompt,
            generator=generator,
            latents=latents,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            eta=eta,
            long_video=long_video,
            callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        latents = torch.cat(list(denoise(self, job, StreamState())), dim=2)
        videos = latents if output_type == "latent" else self.decode(latents, decode_chunk_size, output_type)
        self.maybe_free_model_hooks()
        return FollowYourPoseOutput(videos=videos) if return_dict else (videos,)

    @torch.no_grad()
    def stream(self, *args: Any, state: StreamState | None = None, **kwargs: Any) -> Iterator[Any]:
        """Generates as a call does, from the same arguments, and gives frames as soon as no window touches them again.

        The parts follow one another without gap or overlap, each in the form of `output_type`: by default arrays
        (b, n, H, W, 3) in [0, 1]. In memory are one window and, of the whole video, the initial noise; of windows that
        are denoised together, all latents.

        Args:
            state: where to begin; before each part it is brought up to where to go on after it, by another stream of
                the same arguments. That one needs its generators in the state in which they were first given.

        Raises:
            TypeError: an argument that a call does not have. ValueError: as a call. Both before the first part.
        """
        call = inspect.signature(type(self).__call__).bind(self, *args, **kwargs)
        call.apply_defaults()
        given = {name: value for name, value in call.arguments.items() if name not in ("self", "return_dict")}
        output_type, chunk_size = given.pop("output_type"), given.pop("decode_chunk_size")
        check_choice("output_type", output_type, get_args(OutputType))
        check_at_least("decode_chunk_size", chunk_size)
        return self._stream(prepare(self, **given), StreamState() if state is None else state, output_type, chunk_size)

    @torch.no_grad()
    def _stream(self, job: Job, state: StreamState, output_type: OutputType, chunk_size: int) -> Iterator[Any]:
        for latents in denoise(self, job, state):
            yield latents if output_type == "latent" else self.decode(latents, chunk_size, output_type)
        self.maybe_free_model_hooks()

    def predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        condition: Condition,
        guidance_scale: float,
        step: int = 0,
        steps: int = 1,
    ) -> Tensor:
        """Predicts the noise (b, c, f, h, w) of latents (b, c, f, h, w) at one timestep (), at step 0 ... steps - 1.

        Under guidance u + w (c - u) of the unconditional and the conditional prediction (Ho and Salimans 2022,
        arXiv 2207.12598, in the convention where w = 1 is no guidance); else the conditional one.
        """
        text, features = condition.at(step, steps, len(latents))
        # One memory layout, whatever the scheduler left, for a compiled UNet to know it again.
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
        """Encodes n prompts and their negatives: two of (n, t, d). Embeddings that are given are taken as they are.

        Raises:
            ValueError: a prompt is neither text nor a list of texts, or the numbers do not fit.
        """
        if (prompt is None) == (prompt_embeds is None):
            given = "neither" if prompt is None else "both"
            raise ValueError(f"got {given} of prompt and prompt_embeds, expected one of them")
        if prompt_embeds is None:
            prompt_embeds = self._encode("prompt", prompt)
        if negative_prompt_embeds is None:
            negative_prompt_embeds = self._encode("negative_prompt", negative_prompt or "")
        embeds = [x.to(self._execution_device, self.unet.dtype) for x in (prompt_embeds, negative_prompt_embeds)]
        if len(embeds[1]) not in (1, len(embeds[0])) or embeds[0].shape[1:] != embeds[1].shape[1:]:
            raise ValueError(
                f"negative_prompt: got embeddings {tuple(embeds[1].shape)}, expected one or as many as prompts, "
                f"{tuple(embeds[0].shape)}"
            )
        return embeds[0], embeds[1].expand_as(embeds[0])

    def _encode(self, name: str, texts: str | list[str]) -> Tensor:
        if not isinstance(texts, str) and not (
            isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)
        ):
            got = f"{texts!r:.60}" if isinstance(texts, list) else type(texts).__name__
            raise ValueError(f"{name}: got {got}, expected a string or a list of strings")
        texts = self.maybe_convert_prompt([texts] if isinstance(texts, str) else texts, self.tokenizer)
        length = self.tokenizer.model_max_length
        for text, ids in zip(texts, self.tokenizer(texts).input_ids, strict=True):
            if len(ids) > length:
                lost = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning(f"{name} {text!r:.60}: only {length} tokens are read; lost is {lost!r}")
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        return self.text_encoder(tokens.input_ids.to(self._execution_device)).last_hidden_state

    def encode_text(
        self, prompt_embeds: Tensor, negative_prompt_embeds: Tensor, count: int, per_prompt: int, guided: bool
    ) -> TextCache:
        """Projects prompts (n, t, d) to every layer's keys and values, once each, and repeats those for b videos."""
        halves = [negative_prompt_embeds, prompt_embeds] if guided else [prompt_embeds]
        cache = self.unet.encode_text(torch.cat(halves))

        def spread(x: Tensor) -> Tensor:
            return torch.cat([_for_videos(half, count, per_prompt) for half in x.chunk(len(halves))])

        return [[(spread(k), spread(v)) for k, v in block] for block in cache]

    def encode_pose(
        self,
        skeleton: Tensor | None,
        count: int,
        per_prompt: int,
        guided: bool,
        pose_guidance: PoseGuidance = "both",
        pose_scale: float = 1.0,
    ) -> list[Tensor] | None:
        """Encodes skeletons (n, 3, f, H, W) in [0, 1], once each, scales the features and repeats them for b videos.

        The unconditional half gets the same or, under "conditional", zeros, which to the UNet is no pose.
        """
        if skeleton is None:
            return None
        features = self.pose_encoder(skeleton.to(self._execution_device, self.pose_encoder.dtype))
        features = [_for_videos(x * pose_scale, count, per_prompt).to(self.unet.dtype) for x in features]
        if not guided:
            return features
        return [torch.cat([x if pose_guidance == "both" else torch.zeros_like(x), x]) for x in features]

    # ---- pixels -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk_size: int = 8, output_type: OutputType = "np") -> Any:
        """Decodes latents (b, c, f, h, w), `chunk_size` frames at a time; see `FollowYourPoseOutput` for the types."""
        config = self.vae.config
        frames = rearrange(latents, "b c f h w -> (b f) c h w").to(self.vae.dtype)
        frames = frames / config.scaling_factor + (config.shift_factor or 0)
        pixels = [(self.vae.decode(x).sample / 2 + 0.5).clamp(0, 1).float() for x in frames.split(chunk_size)]
        videos = rearrange(torch.cat(pixels), "(b f) c h w -> b f c h w", b=len(latents))
        if output_type == "pt":
            return videos
        videos = rearrange(videos, "b f c h w -> b f h w c").cpu().numpy()
        if output_type == "np":
            return videos
        return [[Image.fromarray(frame) for frame in video] for video in (videos * 255).round().astype(np.uint8)]


def vae_scale_factor(vae: AutoencoderKL) -> int:
    """The VAE's factor from pixels to latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _for_videos(x: Tensor, count: int, per_prompt: int) -> Tensor:
    """Repeats x (1 or count, ...) to (count * per_prompt, ...), the copies of one side by side."""
    return x.expand(count, *x.shape[1:]).repeat_interleave(per_prompt, dim=0)
