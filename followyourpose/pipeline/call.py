"""Arguments of a call of the pipeline: their defaults, their documentation and their checks, once.

b videos   n prompts or skeletons   f frames   c channels   h w latent height and width   H W pixels
t text tokens   d text width
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor

from followyourpose.common.checks import (
    check_at_least,
    check_choice,
    check_finite,
    check_interval,
    check_scale,
    check_share,
)
from followyourpose.pipeline.inputs import Generators, Noise, PoseGuidance, check_finite_tensor, check_texts
from followyourpose.pipeline.lora_scales import check_lora_scales
from followyourpose.pipeline.people import Person, check_people
from followyourpose.pipeline.schedule import Numbers, check_numbers, check_schedule, highest
from followyourpose.pipeline.skeletons import Skeleton
from followyourpose.pipeline.texts import Prompt
from followyourpose.pipeline.windows import LongVideo
from followyourpose.pose.regions import Overlap

COUNTS = ("num_inference_steps", "num_videos_per_prompt", "cache_interval", "decode_chunk_size")
SIZES = ("num_frames", "height", "width")
NUMBERS = (
    "guidance_start", "guidance_end", "guidance_rescale", "pose_start", "pose_end", "scene_share", "eta",
)  # fmt: skip
TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")
KINDS: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("a whole number", Integral, COUNTS),
    ("a whole number", Integral, ("transition",)),
    ("a whole number or None", Integral | None, (*SIZES, "clip_skip")),
    ("a number", Real, NUMBERS),
    ("a tensor or None", Tensor | None, TENSORS),
    ("a LongVideo or None", LongVideo | None, ("long_video",)),
    ("a list of timesteps or None", Sequence | Tensor | None, ("timesteps",)),
    ("{'scale': a number} or None", Mapping | None, ("cross_attention_kwargs",)),
)
CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")
Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any] | None]
OutputType = Literal["np", "pt", "pil", "latent"]
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Call:
    """Arguments of one call of `FollowYourPosePipeline`, checked as far as they can be without its networks.

    Args:
        prompt: one or several, each a text, or texts by frame such as {0: "a panda", 16: "a robot"}, which hold from
            their frames on; None where `prompt_embeds` is given.
        skeleton: rendered frames on black, RGB, in any form that `skeleton_tensor` takes: bytes (f, H, W, 3) or
            (n, f, H, W, 3) as a numpy array, a tensor (3, f, H, W) in [0, 1], PIL images, the path of a video, ... One
            skeleton serves all prompts; n of them go with n prompts, or all with one. None generates without a pose. A
            function from frame numbers to frames, in one of these forms, keeps only a window's frames in memory; a path
            does so too.
        people: several people, each with words of their own: a list of `Person`s, or of mappings with the same keys.
            `prompt` has the scene's words; without a skeleton the people's are drawn together.
        scene_share: share of the scene's words in the people's places; 0: there act their own words alone.
        overlap: of bodies whose people have no depth: "distance", they share a place, or "size", the larger hides.
        transition: frames between two prompts or numbers by frame: those from the second's frame on; 0: a cut.
        lora_scales: scales of loaded LoRAs by their names, numbers or numbers by frame, {"ink": {0: 1.0, 16: 0.3}}; 1
            for those that are not named. The LoRAs of `people` act in their places alone.
        num_frames: None takes the skeleton's, or one frame without a skeleton; a function needs it, and of a path it
            takes the first ones.
        height: pixels; None is the size the model was trained at.
        width: likewise.
        num_inference_steps: denoising steps.
        timesteps: of the denoising steps, from the highest on, for a scheduler that takes them; None: the scheduler's.
        guidance_scale: w of classifier-free guidance, or numbers by frame, {0: 2.0, 16: 6.0}; at 1 and below only the
            conditional half is computed.
        negative_prompt: in the unconditional half; one for all prompts or one each; None is "".
        guidance_start: fraction of the denoising steps after which guidance begins; before, only the conditional half
            is computed (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        guidance_end: fraction of the denoising steps after which guidance ends.
        guidance_rescale: share of the guided prediction that is brought back to the standard deviation of the
            conditional one, against overexposure at high guidance, above all of models with zero terminal SNR (Lin et
            al. 2023, arXiv 2305.08891); 0: none.
        pose_guidance: halves of guidance that see the skeleton: "both", as released, or the "conditional" one only, so
            that guidance strengthens the pose as it does the text.
        pose_scale: factor of the pose features; 0 is no pose. A number, or numbers by frame.
        pose_start: fraction of the denoising steps after which the pose begins to act.
        pose_end: fraction of the denoising steps after which the pose stops acting.
        cache_interval: DeepCache interval: a full UNet step every N steps; the others compute the first level and reuse
            the features below it (Ma et al. 2023, arXiv 2312.00858). 1: every step is a full one.
        noise: between frames, see `initial_noise`.
        num_videos_per_prompt: videos of each prompt, side by side in the result.
        generator: one, or one per video; on the CPU it gives the same noise whatever the device.
        latents: noise (b, c, f, h, w) of variance 1 to start from; None draws it.
        prompt_embeds: (n, t, d), instead of `prompt`.
        negative_prompt_embeds: (1 or n, t, d), instead of `negative_prompt`.
        clip_skip: last layers of the text encoder to skip; None: none, as Stable Diffusion 1.x was trained.
        cross_attention_kwargs: {"scale": factor of the loaded LoRAs} as in diffusers; None: 1.
        eta: fraction of DDIM's stochastic term; other schedulers ignore it.
        long_video: division of the video into windows; None denoises it in one.
        decode_chunk_size: frames that the VAE decodes at a time.
        output_type: see `FollowYourPoseOutput`.
        callback_on_step_end: function of (pipeline, step, timestep, tensors) after each step, or a `PipelineCallback`
            of diffusers; the tensors that it returns replace those of the same name. Setting
            `pipeline._interrupt = True` ends the denoising; `pipeline._guidance_scale`, `_guidance_rescale` and
            `_cross_attention_kwargs` are read at every step. Steps are counted from 0, and these begin anew, in each
            window where windows are denoised one after the other; later frames have no latents yet, and never get any
            if it ends.
        callback_on_step_end_tensor_inputs: those of `CALLBACK_TENSORS` that the callback gets; a `PipelineCallback`
            gets its own choice.
        return_dict: False gives a tuple.

    Raises:
        ValueError: an argument of the wrong type, size or number; the message names it and the expected one.
    """

    prompt: Prompt | list[Prompt] | None = None
    skeleton: Skeleton | None = None
    _: KW_ONLY
    people: Sequence[Person | Mapping[str, Any]] | None = None
    scene_share: float = 0.0
    overlap: Overlap = "distance"
    transition: int = 0
    lora_scales: Mapping[str, Numbers] | None = None
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 50
    timesteps: Sequence[int] | Tensor | None = None
    guidance_scale: Numbers = 12.5
    negative_prompt: str | list[str] | None = None
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    guidance_rescale: float = 0.0
    pose_guidance: PoseGuidance = "both"
    pose_scale: Numbers = 1.0
    pose_start: float = 0.0
    pose_end: float = 1.0
    cache_interval: int = 1
    noise: Noise = "independent"
    num_videos_per_prompt: int = 1
    generator: Generators = None
    latents: Tensor | None = None
    prompt_embeds: Tensor | None = None
    negative_prompt_embeds: Tensor | None = None
    clip_skip: int | None = None
    cross_attention_kwargs: Mapping[str, float] | None = None
    eta: float = 0.0
    long_video: LongVideo | None = None
    decode_chunk_size: int = 8
    output_type: OutputType = "np"
    callback_on_step_end: Callback | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    return_dict: bool = True

    def __post_init__(self) -> None:
        for key, choices in (
            ("pose_guidance", PoseGuidance),
            ("noise", Noise),
            ("overlap", Overlap),
            ("output_type", OutputType),
        ):
            check_choice(key, getattr(self, key), get_args(choices))
        for name in self.callback_inputs:
            check_choice("callback_on_step_end_tensor_inputs", name, CALLBACK_TENSORS)
        for expected, kind, keys in KINDS:
            for key in keys:
                if not isinstance(value := getattr(self, key), kind):
                    got = f"{value!r:.60}" if isinstance(value, str | Real | None) else type(value).__name__
                    raise ValueError(f"{key}: got {got}, expected {expected}")
        for key in (*COUNTS, *SIZES):
            if (value := getattr(self, key)) is not None:
                check_at_least(key, value)
        if not all(isinstance(each, torch.Generator) for each in self.generators):
            raise ValueError("generator: expected a torch.Generator or a list of them")
        check_at_least("transition", self.transition, 0)
        check_share("scene_share", self.scene_share)
        check_numbers("guidance_scale", self.guidance_scale, check_finite)
        check_numbers("pose_scale", self.pose_scale, check_scale)
        check_share("guidance_rescale", self.guidance_rescale)
        if self.clip_skip is not None:
            check_at_least("clip_skip", self.clip_skip, 0)
        check_lora_scale(self.cross_attention_kwargs)
        check_scale("eta", self.eta)
        check_interval("guidance", self.guidance_start, self.guidance_end)
        check_interval("pose", self.pose_start, self.pose_end)
        if self.latents is not None:
            check_finite_tensor("latents", self.latents)
        if (self.prompt is None) == (self.prompt_embeds is None):
            given = "neither" if self.prompt is None else "both"
            raise ValueError(f"got {given} of prompt and prompt_embeds, expected one of them")
        if self.negative_prompt:
            check_texts("negative_prompt", self.negative_prompt)
        if self.prompt is not None:
            check_prompts(self.prompt)
        self.check_frames(None)

    def check_frames(self, num_frames: int | None) -> None:
        """Raise a ValueError unless the frames of all schedules fit each other and a video; None: of unknown length."""
        for name in ("guidance_scale", "pose_scale"):
            check_schedule(name, getattr(self, name), num_frames, self.transition)
        for prompt in self.texts:
            check_schedule("prompt", prompt, num_frames, self.transition)
        check_lora_scales("lora_scales", self.lora_scales, num_frames, self.transition)
        if self.people is not None:
            check_people(self.people, num_frames, self.transition)

    @property
    def callback_inputs(self) -> Sequence[str]:
        """Names of the tensors that the callback gets."""
        return getattr(self.callback_on_step_end, "tensor_inputs", self.callback_on_step_end_tensor_inputs)

    @property
    def guided(self) -> bool:
        """Whether there is an unconditional half."""
        return highest(self.guidance_scale) > 1

    @property
    def texts(self) -> list[Prompt]:
        """The prompts as a list; empty where their embeddings are given."""
        return self.prompt if isinstance(self.prompt, list) else [] if self.prompt is None else [self.prompt]

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators as a list; empty: torch's own."""
        if self.generator is None:
            return []
        return self.generator if isinstance(self.generator, list) else [self.generator]

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.texts) if self.prompt_embeds is None else len(self.prompt_embeds)


def check_prompts(prompts: Any) -> None:
    """Raise a ValueError unless these are a prompt or several, each a text or a text for each of some frames."""
    if not any(isinstance(prompt, Mapping) for prompt in (prompts if isinstance(prompts, list) else [prompts])):
        check_texts("prompt", prompts)
        return
    for prompt in prompts if isinstance(prompts, list) else [prompts]:
        check_texts("prompt", list(prompt.values()) if isinstance(prompt, Mapping) else [prompt])


def check_lora_scale(cross_attention_kwargs: Mapping[str, Any] | None) -> float:
    """Return the factor of the loaded LoRAs, 1 where there is none.

    Raises:
        ValueError: another key, or no finite number.
    """
    for key, value in (cross_attention_kwargs or {}).items():
        if key != "scale" or not isinstance(value, Real):
            raise ValueError(f"cross_attention_kwargs: got {key!r}: {value!r:.60}, expected 'scale': a number")
        check_finite("cross_attention_kwargs: scale", float(value))
    return float((cross_attention_kwargs or {}).get("scale", 1.0))


def takes_call(method: Method) -> Method:
    """Give a method of `*args, **kwargs` the signature and the documentation of a `Call`, beside its own arguments."""
    signature = inspect.signature(method)
    first, *others = signature.parameters.values()
    own = [parameter for parameter in others if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    parameters = [first, *inspect.signature(Call).parameters.values(), *own]
    method.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    _, section, arguments = (inspect.getdoc(Call) or "").partition("Args:")
    method.__doc__ = f"{inspect.getdoc(method)}\n\n{section}{arguments}"
    return method
