"""Settings of `followyourpose generate`, `demo` and `extract-pose`, each with its default, its unit and its check."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from omegaconf import MISSING

from followyourpose.common.checks import (
    check_above_zero,
    check_bounds,
    check_finite,
    check_share,
    check_unicode,
    check_window,
    parse_size,
)
from followyourpose.config.loader import PROSE
from followyourpose.config.sampling import (
    LARGEST_SEED,
    LARGEST_SIDE,
    MOST_STEPS,
    NUMBERS,
    Backend,
    Noise,
    Overlap,
    PoseGuidance,
    SamplingConfig,
)
from followyourpose.pipeline.schedule import check_numbers, check_schedule, values_of
from followyourpose.pipeline.windows import LongVideo

PROMPT = str | dict[int, str]  # for the whole video, or from each of these frames on


@dataclass
class CropConfig:
    """Pixels cut from the sides of the skeleton video before it is resized to cover height x width."""

    left: int = 0  # pixels cut from the left
    right: int = 0  # pixels cut from the right
    top: int = 0  # pixels cut from the top
    bottom: int = 0  # pixels cut from the bottom

    def __post_init__(self) -> None:
        check_bounds(self, "crop.", left=0, right=0, top=0, bottom=0)


@dataclass
class PoseConfig:
    """Pose estimation in a video of people, and the drawing style of skeletons; the flags of extract-pose too."""

    source: Literal["skeleton", "raw"] = "skeleton"  # content of `skeleton`; raw: a video of people
    backend: Backend = "light"  # light (BlazePose; a few people), rtmlib (RTMPose, RTMO), mmpose (HRNet) or puppet
    weights: str | None = None  # the backend's file, or its name in `followyourpose download`; None: the default one
    config: str | None = None  # of mmpose, a file or a name that it ships; None: the one the weights are named after
    boxes: str | None = None  # a YOLOX or RTMDet .onnx that finds people, or yolox; None: light's own, or whole frames
    device: str | None = None  # cpu, cuda, ...; None: a GPU where the backend can use one, else cpu, as light always
    people: int | None = None  # number of people to keep in a frame, the largest ones; None: all
    max_gap: int = 5  # longest gap of a joint or a person, in frames, that is filled in
    smooth: int = 0  # frames, an odd number: window of a Savitzky-Golay filter over time; 0: none
    min_confidence: float = 0.3  # joints below it are not drawn
    style: Literal["coco", "coco_bgr", "openpose"] = "coco"  # MMPose's colours; those of its 0.x, red and blue swapped

    def __post_init__(self) -> None:
        check_bounds(self, "pose.", people=1, max_gap=0)
        check_window("pose.smooth", self.smooth)
        if not 0 < self.min_confidence <= 1:
            raise ValueError(f"pose.min_confidence: got {self.min_confidence}, expected more than 0, and at most 1")


@dataclass
class RetargetConfig:
    """Another body for the skeleton, which has to be keypoints (a .json, or a raw video)."""

    reference: str | None = None  # keypoints file with the target body's limb lengths, scale and position; None: none
    scale: float = 1.0  # enlarges people, about their feet
    limbs: dict[str, float] = field(default_factory=dict)  # the same for single limbs: trunk, thigh, shin, forearm, ...

    def __post_init__(self) -> None:
        check_above_zero("retarget.scale", self.scale)
        for limb, scale in self.limbs.items():
            check_above_zero(f"retarget.limbs.{limb}", scale)


@dataclass
class LoraEntry:
    """One LoRA of a run."""

    path: str = MISSING  # the LoRA's file or folder
    weight: Any = field(default=1.0, metadata=NUMBERS)  # factor of its additions; by frame: {0: 1.0, 16: 0.3}

    def __post_init__(self) -> None:
        check_numbers("lora weight", self.weight, check_finite)


LORAS = {"kind": str | LoraEntry | list[str | LoraEntry] | None}


@dataclass
class EmbeddingEntry:
    """One textual inversion of a run."""

    path: str = MISSING  # the embedding's file or folder
    word: str | None = None  # the word that stands for it in prompts; None: the file's own

    def __post_init__(self) -> None:
        if self.word is not None and not self.word.strip():
            raise ValueError(f"embeddings word: got {self.word!r}, expected text")


@dataclass
class PersonEntry:
    """One of several people, with words of their own."""

    skeleton: str = MISSING  # keypoints of this person alone (.json)
    prompt: Any = field(default=MISSING, metadata=PROSE | {"kind": PROMPT})  # the words, also by frame
    depth: float | None = None  # place from the viewer on: the lowest hides the others; None: see overlap
    lora: Any = field(default=None, metadata=LORAS)  # LoRA files that act in this person's places alone

    def __post_init__(self) -> None:
        if self.depth is not None:
            check_finite("people: depth", self.depth)


PROMPTS = PROSE | {"kind": PROMPT | list[PROMPT]}
PEOPLE = PROSE | {"kind": list[PersonEntry] | dict[int, PROMPT] | None}
EMBEDDINGS = {"kind": str | EmbeddingEntry | list[str | EmbeddingEntry] | None}
Output = Literal["mp4", "gif", "sheet", "with-skeleton"]
SKELETONS = {"kind": str | list[str | list[str]] | None}


@dataclass
class GenerateConfig(SamplingConfig):
    """One video for each prompt, skeleton and seed.

    Relative paths are looked for in the working directory, then in the repository.
    """

    model: str = "checkpoints/puppet"  # a pipeline's folder; an image model's (Stable Diffusion 1.x) is inflated
    prompt: Any = field(  # a string, texts by frame such as {0: ..., 16: ...}, a list, or prompts.txt, a prompt a line
        default=MISSING, metadata=PROMPTS
    )
    people: Any = field(  # words of each person: [{skeleton: left.json, prompt: ...}, ...], or by track {0: ...}
        default=None, metadata=PEOPLE
    )
    scene_share: float = 0.0  # share of the prompt's words in people's places; 0: people's own words alone
    overlap: Overlap = "distance"  # of bodies: distance, they share a place; size, the larger body hides the others
    transition: int = 0  # frames between two prompts or numbers by frame, from the second's frame on; 0: a cut
    negative_prompt: str = field(default="", metadata=PROSE)  # what the videos should not show
    style: str = field(default="", metadata=PROSE)  # text that is appended to each prompt, behind a comma
    download: bool = False  # bring the model where it is a name of `followyourpose download` and not there yet
    config: str | None = None  # of a model in one file: Stable Diffusion's folder with configs and tokenizer
    vae: str | None = None  # another VAE, a folder or a file; None: the model's own
    lora: Any = field(default=None, metadata=LORAS)  # LoRA files: a path, {path: ..., weight: 0.8}, or a list
    embeddings: Any = field(  # textual inversions: a path, {path: ..., word: <hero>}, or a list
        default=None, metadata=EMBEDDINGS
    )
    skeleton: Any = field(  # a video, gif, folder of frames, or keypoints of any tool, or a list; None: the sample
        default=None, metadata=SKELETONS
    )
    skeleton_size: str | None = None  # WxH in pixels, such as 1280x720, of other tools' keypoints that have no size
    skeleton_resize: Literal["area", "bilinear"] = "area"  # of drawn frames; area keeps thin limbs; bilinear: released
    pose: PoseConfig = field(default_factory=PoseConfig)
    retarget: RetargetConfig = field(default_factory=RetargetConfig)
    temporal_offset: int = 0  # frames of the skeleton to skip at its beginning
    stride: int = 1  # frames of the skeleton per frame of the video
    num_frames: int = 16  # frames of the video
    skeleton_end: Literal["stop", "loop", "pingpong", "hold"] = "stop"  # continuation after the skeleton's last frame
    long_video: LongVideo = field(default_factory=LongVideo)
    crop: CropConfig = field(default_factory=CropConfig)
    fit: Literal["cover", "pad"] = "cover"  # skeletons of another shape: cover cuts their sides off, pad adds black
    height: int | None = None  # pixels; None: the size the model was trained at
    width: int | None = None  # pixels
    num_inference_steps: int = 50  # denoising steps
    guidance_scale: Any = field(  # of classifier-free guidance; 1: none; a number, or by frame: {0: 2.0, 16: 6.0}
        default=12.5, metadata=NUMBERS
    )
    pose_guidance: PoseGuidance = "both"  # halves of guidance that see the skeleton: both, or conditional only
    noise: Noise = "independent"  # initial noise of the frames: independent, mixed or shared
    num_videos_per_prompt: int = 1  # videos per prompt and skeleton
    seed: int = 0  # of a prompt's first video; its next ones have the next seeds
    fps: float = 8.0  # frames per second of the written files
    outputs: list[Output] = field(  # files of a video, one or more of mp4, gif, sheet (frames), with-skeleton
        default_factory=lambda: list(get_args(Output))
    )
    enlarge: int = 1  # factor by which the written files are larger than the frames
    attention: str | None = None  # native, auto (the fastest), xformers, flash, ...; None: DIFFUSERS_ATTN_BACKEND's
    output: str | None = None  # None: a new folder under outputs/; an unfinished run goes on in its own folder

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt != MISSING:
            prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt]
            if not prompts:
                raise ValueError("prompt: got an empty list, expected a string or a list of strings")
            for index, prompt in enumerate(prompts):
                self._check_prompt(f"prompt[{index}]" if prompts is self.prompt else "prompt", prompt)
        check_bounds(
            self, transition=0, temporal_offset=0, stride=1, num_inference_steps=(1, MOST_STEPS),
            num_videos_per_prompt=(1, 100_000), seed=(0, LARGEST_SEED), enlarge=(1, 16), height=(1, LARGEST_SIDE),
            width=(1, LARGEST_SIDE),
        )  # fmt: skip
        if not self.outputs:
            raise ValueError(f"outputs: got none, expected at least one of {', '.join(get_args(Output))}")
        if self.skeleton_size is not None:
            parse_size("skeleton_size", self.skeleton_size)
        check_numbers("guidance_scale", self.guidance_scale, check_finite)
        check_share("scene_share", self.scene_share)
        for key in ("guidance_scale", "pose_scale"):
            check_schedule(key, getattr(self, key), self.num_frames, self.transition)
        self._check_people()
        self._check_loras("lora", self.lora)
        check_unicode("negative_prompt", self.negative_prompt)
        check_unicode("style", self.style)
        if not 0.1 <= self.fps <= 100:
            raise ValueError(f"fps: got {self.fps}, expected at least 0.1, and at most 100, the limit of a gif")
        self.long_video.windows(self.num_frames)

    def _check_prompt(self, name: str, prompt: Any) -> None:
        for text in values_of(prompt):
            if not isinstance(text, str):
                raise ValueError(f"{name}: got {type(text).__name__} ({text!r}), expected a string")
            check_unicode(name, text)
        check_schedule(name, prompt, self.num_frames, self.transition)

    def _check_people(self) -> None:
        if self.people is None:
            return
        if not self.people:
            raise ValueError("people: got none, expected a skeleton and a prompt for each, or null")
        for number, person in enumerate(self.people) if isinstance(self.people, list) else self.people.items():
            if isinstance(self.people, list):
                for key in ("skeleton", "prompt"):
                    if key not in person:
                        raise ValueError(f"people[{number}]: no {key}, expected a skeleton and a prompt")
                self._check_loras(f"people[{number}].lora", person.get("lora"))
                person = person["prompt"]
            self._check_prompt(f"people[{number}]", person)

    def _check_loras(self, name: str, entries: Any) -> None:
        for index, entry in enumerate(entries if isinstance(entries, list) else [entries]):
            weight = entry.get("weight") if isinstance(entry, Mapping) else getattr(entry, "weight", None)
            check_schedule(f"{name}[{index}].weight", weight, self.num_frames, self.transition)
