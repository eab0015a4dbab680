"""What every YAML file may say: one dataclass per verb, its defaults, and a strict loader.

The comment beside a key is also its line in `followyourpose VERB --help`.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from followyourpose.common.checks import check_at_least, check_choice

REPOSITORY = Path(__file__).resolve().parents[2]  # where configs/ and checkpoints/ lie in a clone


class ConfigError(ValueError):
    """A configuration that cannot be used; its message names the file and the key."""


def locate(path: str | Path) -> Path:
    """Where a relative path of a config leads: from the working directory, or else from the repository's root.

    A path that exists in neither place is returned as it is.
    """
    path = Path(path).expanduser()
    return path if path.exists() or not (REPOSITORY / path).exists() else REPOSITORY / path


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Passes when each of these keys has one of its choices; else a ValueError names the key and them."""
    for key, known in choices.items():
        check_choice(key, getattr(config, key), known)


def check_least(config: Any, least: Mapping[str, int]) -> None:
    """Passes when each of these keys is None or no less than its number; else a ValueError names the key and it."""
    for key, number in least.items():
        if getattr(config, key) is not None:
            check_at_least(key, getattr(config, key), number)


# ---- train ----------------------------------------------------------------------------------------------------------


@dataclass
class DataConfig:
    """What a run is trained on."""

    path: str = MISSING  # a folder; of images also shards by name, local or remote: https://host/{00000..00011}.tar
    kind: str = "images"  # images: .tar shards or a manifest, with keypoints; clips: a manifest or HD-VILA's layout
    height: int = 64  # pixels
    width: int = 64  # pixels
    num_frames: int = 1  # frames per clip
    stride: list[int] = field(default_factory=lambda: [1, 1])  # frames from one to the next: lowest and highest
    skeleton: bool = False  # render the keypoints and condition on them
    limit: int | None = None  # use only so many samples, from the first; None: all
    captions: str | None = None  # HD-VILA's .csv of part_id, clip_id, caption; None: the one in the folder
    min_keypoints: float = 0.5  # images need a person with more than this share of the joints seen; 0: any image
    min_caption: int = 1  # images need a caption of so many characters
    min_size: int = 0  # images need so many pixels on their smaller side
    crop: str = "center"  # center or random: which part of a larger picture is taken; people are kept inside
    flip: float = 0.0  # share of samples that are mirrored; not for captions that tell left from right
    cache: str | None = None  # the folder of the encoded data set, made where it is not there; None: train on pixels
    max_bad: float = 0.1  # stop when more than this share of the samples cannot be read (after the first 50)
    workers: int = 0  # processes that read data, per training process
    timeout: float = 120.0  # seconds without a batch after which the workers are started anew
    download: str = "data/download"  # the folder for copies of remote shards


@dataclass
class OptimConfig:
    """AdamW and its schedule."""

    name: str = "adamw"  # adamw, or adamw8bit: its state in 8 bits (needs bitsandbytes and CUDA)
    batch_size: int = 8  # clips per process and step
    gradient_accumulation_steps: int = 1  # batches per optimiser step
    learning_rate: float = 1e-4  # its highest value
    schedule: str = "constant"  # constant, cosine or linear, after the warm-up
    warmup_steps: int = 0  # optimiser steps
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of AdamW
    weight_decay: float = 1e-2  # of AdamW
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    max_skipped: int = 20  # steps in a row without a finite gradient, which are skipped, before the run stops
    ema_decay: float | None = None  # of the moving average of the weights; None: none is kept


@dataclass
class ValidationConfig:
    """Videos that a run draws now and then, from the same noise each time, to be looked at."""

    every: int = 0  # steps from one time to the next; 0: never
    prompts: list[str] = field(default_factory=list)  # a video each
    skeleton: str | None = None  # as for generate; None: the shipped sample; without effect where no pose is trained
    num_frames: int = 8  # frames per video
    num_inference_steps: int = 20  # denoising steps
    guidance_scale: float = 7.5  # of classifier-free guidance; 1: none
    pose_guidance: str = "both"  # both: the skeleton conditions both halves of guidance; conditional: only the one
    noise: str = "independent"  # initial noise of the frames: independent, mixed or shared


@dataclass
class NetworkConfig:
    """Settings of the video UNet, for ablations; None: as `init` has it; of an image model is made the paper's."""

    clip_norm: bool | None = None  # false: the residual blocks' norms take their statistics per frame
    cross_frame_attention: bool | None = None  # false: frames attend to themselves, not to the first and the previous
    pose_fusion: str | None = None  # concat: pose features are put beside the hidden states, not added to them
    temporal_rank: int | None = None  # of the temporal convolutions

    def changes(self) -> dict[str, Any]:
        """What is set, by name."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass
class LoraConfig:
    """Low-rank additions to the frozen UNet, to be trained in its place: `trainable: ['^unet\\..*lora']`."""

    rank: int | None = None  # of the additions; None: no LoRA
    alpha: float | None = None  # the additions count alpha / rank times; None: once
    targets: list[str] = field(  # regular expressions on names of the UNet's linear layers and convolutions
        default_factory=lambda: [r"attn[12]\.to_(q|k|v|out\.0)$"]
    )


@dataclass
class TrainConfig:
    """One run: what it starts from, what it trains on what data, and where it writes."""

    output: str = MISSING  # the run's folder; the same command resumes what is there
    init: str = MISSING  # a pipeline folder, an image model's folder, or the folder of another run
    objective: str = "denoise"  # denoise, autoencode, contrast or locate
    scratch: list[str] = field(default_factory=list)  # components that start from random weights
    network: NetworkConfig = field(default_factory=NetworkConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    trainable: list[str] = MISSING  # regular expressions on names, e.g. ^unet\..*attn_temp
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = MISSING  # optimiser steps
    save_every: int = 500  # steps between checkpoints
    keep_checkpoints: int = 2  # so many of the newest stay
    log_every: int = 20  # steps between lines of log.jsonl
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])  # of accelerate: tensorboard, wandb, ...
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0  # of the data's order, the noise and the dropout
    mixed_precision: str = "fp32"  # fp32, fp16 or bf16; weights and optimiser state are fp32 in all
    gradient_checkpointing: bool = False  # compute activations twice, and keep fewer of them
    compile: bool = False  # compile the UNet with torch.compile: minutes at the start, faster steps
    prompt_dropout: float = 0.0  # share of samples trained without their caption, for classifier-free guidance
    prefix_shuffle: float = 0.0  # share of captions read, from some word on, as if another's words stood before
    kl: float = 1e-8  # of objective autoencode: weight of the latents' divergence from a standard normal
    noise_bias: float = 0.0  # share of timesteps drawn from the noisier half only
    min_snr_gamma: float | None = (
        None  # weigh timesteps by min(SNR, gamma) (arXiv 2303.09556), 5 is usual; None: evenly
    )
    noise_offset: float = 0.0  # share of noise that is one number per channel and clip, for darker and lighter videos
    shared_noise: float = 0.0  # share of clips whose frames all get the same noise, as `noise: shared` generates
    person_weight: float = 1.0  # how much more errors count where a person is; above 1 needs images with keypoints


# ---- generate and evaluate ------------------------------------------------------------------------------------------


@dataclass
class SamplingConfig:
    """What generate and evaluate share: how strongly text and pose lead, and what a denoising step may save."""

    pose_scale: float = 1.0  # multiplies the pose features; 0: no pose
    pose_start: float = 0.0  # share of the denoising steps after which the pose begins to act
    pose_end: float = 1.0  # share after which it ends to
    guidance_start: float = 0.0  # share of the denoising steps after which guidance begins; steps without it cost half
    guidance_end: float = 1.0  # share after which it ends
    scheduler: str = "ddim"  # ddim; dpm++, unipc: fewer steps; euler; lcm: 4 to 8, with an LCM-LoRA, guidance 1 to 2
    cache_interval: int = 1  # every how many-th step is a full one, the others skip all but the UNet's first level
    compile: bool = False  # compile the UNet: minutes at the start, faster steps; not with offload or weights: float8
    dtype: str = "float32"  # float32, float16 or bfloat16
    offload: str = "none"  # none, model: on the GPU only what is at work; group: only single layers, slower
    weights: str = "full"  # full; int8 (nearer to full), float8: the UNet's are kept in 8 bits, computed with in dtype
    attention_chunk: int | None = None  # queries that attend at a time, for attentions that keep scores; None: all
    decode_chunk_size: int = 8  # frames that the VAE decodes at a time
    vae_tiling: bool = False  # decode large frames in overlapping tiles


# ---- generate -------------------------------------------------------------------------------------------------------


@dataclass
class CropConfig:
    """Pixels of the skeleton video that are cut from its sides before it is resized to cover height x width."""

    left: int = 0  # pixels
    right: int = 0
    top: int = 0
    bottom: int = 0


@dataclass
class PoseConfig:
    """How people are found in a video, and how their skeletons are drawn; the flags of extract-pose too."""

    source: str = "skeleton"  # what `skeleton` is: skeleton, or raw: a video of people, whose poses are found first
    backend: str = "puppet"  # who finds them: puppet (the embedded detector), rtmlib (RTMPose, RTMO) or mmpose (HRNet)
    weights: str | None = None  # the backend's file; None: the one that checkpoints/README.md names
    config: str | None = None  # of mmpose, a file or a name that it ships; None: the one the weights are named after
    boxes: str | None = None  # a YOLOX or RTMDet .onnx to find people with, for RTMPose and HRNet; None: whole frames
    device: str | None = None  # cpu, cuda, ...; None: cuda where the backend can use one, else cpu
    people: int | None = None  # keep so many in a frame, the largest ones; None: all
    max_gap: int = 5  # frames for which a joint, or somebody, may be lost and is filled in between
    smooth: int = 0  # frames, an odd number: window of a Savitzky-Golay filter over time; 0: none
    min_confidence: float = 0.3  # joints below it are not drawn
    style: str = "coco"  # coco: MMPose's colours, as the released checkpoint knows them; or openpose


@dataclass
class RetargetConfig:
    """Another body for the skeleton, which has to be keypoints (a .json, or a raw video)."""

    reference: str | None = None  # a keypoints .json of whom the skeleton gets limbs, size and place; None: of nobody
    scale: float = 1.0  # makes people so many times larger, about their feet
    limbs: dict[str, float] = field(default_factory=dict)  # the same for single ones: trunk, thigh, shin, forearm, ...


@dataclass
class LongVideoConfig:
    """How a video longer than a window is made of windows."""

    mode: str = "blend"  # blend: windows averaged; freenoise: also shuffled noise; paper: in turn; full: one window
    window: int | None = None  # frames that the network sees at a time; null: 16, or all where there are fewer
    overlap: int | None = None  # frames that neighbouring windows share; null: half the window
    anchor: bool = False  # put frame 0 in front of every window, for cross-frame attention to look at
    batch: int = 1  # windows that go through the network at a time, where they are denoised together


@dataclass
class GenerateConfig(SamplingConfig):
    """A video for each prompt with each skeleton and each seed.

    Relative paths are looked for in the working directory, then in the repository.
    """

    model: str = "checkpoints/puppet"  # a pipeline's folder; an image model's (Stable Diffusion 1.x) is inflated
    prompt: Any = MISSING  # a string or a list of strings: one video (or num_videos_per_prompt) for each
    negative_prompt: str = ""  # what the videos should not show
    style: str = ""  # text that is put after each prompt, behind a comma
    lora: Any = field(default_factory=list)  # LoRA files for the model's base: a path, {path: ..., weight: 0.8}, a list
    skeleton: Any = None  # a video, gif, folder of frames or keypoints .json, or a list of these; None: a sample
    pose: PoseConfig = field(default_factory=PoseConfig)
    retarget: RetargetConfig = field(default_factory=RetargetConfig)
    temporal_offset: int = 0  # frames of the skeleton that are skipped at its beginning
    stride: int = 1  # frames: every how many-th of the skeleton is taken
    num_frames: int = 16  # frames of the video
    skeleton_end: str = "stop"  # stop, loop, pingpong or hold: what follows the skeleton's last frame
    long_video: LongVideoConfig = field(default_factory=LongVideoConfig)
    crop: CropConfig = field(default_factory=CropConfig)
    height: int | None = None  # pixels; None: the size the model was trained at
    width: int | None = None  # pixels
    num_inference_steps: int = 50  # denoising steps
    guidance_scale: float = 12.5  # of classifier-free guidance; 1: none
    pose_guidance: str = "both"  # both: the skeleton conditions both halves of guidance; conditional: only the one
    noise: str = "independent"  # initial noise of the frames: independent, mixed or shared
    num_videos_per_prompt: int = 1
    seed: int = 0  # of a prompt's first video; its next ones have the next seeds
    fps: float = 8.0  # frames per second of the written files
    enlarge: int = 1  # the written files are so many times larger than the frames
    attention: str = "native"  # or xformers, flash, ...: where they are installed and a GPU is there
    device: str | None = None  # cpu, cuda, cuda:1, ...; None: cuda where there is one, else cpu
    output: str | None = None  # None: a new folder under outputs/; an unfinished run goes on in the folder that it has


# ---- evaluate -------------------------------------------------------------------------------------------------------


@dataclass
class EvaluateConfig(SamplingConfig):
    """Videos, or what a model draws of held-out puppets or of a manifest -> metrics.json and what report.py lists."""

    videos: str | None = None  # what is judged: a run's folder or a manifest; None: what `model` draws of puppets
    model: str = "checkpoints/puppet"  # a FollowYourPosePipeline's folder
    image_model: str | None = "checkpoints/puppet-base"  # for flicker before stage 2: its UNet, inflated; None: without
    clip: str = "checkpoints/puppet-eval/clip"  # a CLIPModel's folder with its tokenizer
    backend: str = "puppet"  # who finds people: puppet (the embedded detector), rtmlib (RTMPose, RTMO), mmpose (HRNet)
    detector: str | None = None  # the backend's file or folder; None: the one that checkpoints/README.md names
    detector_config: str | None = None  # of mmpose, a file or a name that it ships; None: the one it is named after
    boxes: str | None = None  # a YOLOX or RTMDet .onnx to find people with, for RTMPose and HRNet; None: whole frames
    benchmark: str | None = None  # puppet-bench-1: its first num_videos, or whose `videos` are; None: from seed
    num_videos: int = 64  # held-out scenes
    without_skeleton: bool = True  # whether the model draws all once more, without a skeleton: what chance reaches
    flicker_videos: int = 16  # the first so many of them are drawn also with other noise, and before stage 2
    num_frames: int = 8  # frames per video
    batch_size: int = 8  # videos at a time
    num_inference_steps: int = 20  # denoising steps
    guidance_scale: float = 2.0  # of classifier-free guidance; 1 is none
    pose_guidance: str = "conditional"  # both: the skeleton conditions both halves; conditional: only the one
    noise: str = "shared"  # initial noise of the frames: independent, mixed or shared
    long_video: LongVideoConfig = field(default_factory=LongVideoConfig)
    modes: list[str] = field(default_factory=list)  # of long_video, to be compared with one another, and nothing else
    seed: int = 1000  # of the scenes and of the noise
    device: str | None = None  # None: cuda where there is one, else cpu
    output: str | None = None  # None: a new folder under outputs/


# ---- study ----------------------------------------------------------------------------------------------------------


@dataclass
class StudyConfig:
    """A page on which raters choose among systems' videos of the same prompts."""

    systems: dict[str, str] = MISSING  # 2 to 9, as systems.NAME=FOLDER: runs of generate, or videos of the same names
    manifest: str | None = None  # .jsonl: {"video": NAME, "prompt": TEXT, "skeleton": FILE} a line; None: all videos
    questions: list[str] = field(  # of quality, text, pose, consistency; or one's own, as "hands: Whose are best?"
        default_factory=lambda: ["quality"]
    )
    fps: float | None = None  # frames per second that all are played at; None: each at its own
    output: str | None = None  # None: a new folder under outputs/


# ---- reading --------------------------------------------------------------------------------------------------------

Schema = TypeVar("Schema")


def load_config(schema: type[Schema], path: str | Path, overrides: Sequence[str] = ()) -> Schema:
    """Reads a YAML file into `schema`, with `key=value` overrides on top.

    Raises:
        ConfigError: the file is missing or no mapping; a key is unknown (its nearest neighbour is named), a value has
            the wrong type, or a key without a default is not set.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: got {type(content).__name__} at the top, expected `key: value` lines")
    return build_config(schema, content, overrides, str(path))


def build_config(
    schema: type[Schema], content: dict[str, Any], overrides: Sequence[str] = (), name: str = "config"
) -> Schema:
    """The same from a dictionary; `name` stands for the file in messages."""
    for override in overrides:
        if not override.partition("=")[0] or "=" not in override:
            raise ConfigError(f"command line: got {override!r}, expected key=value")
    config = OmegaConf.structured(schema)
    layers = [(name, OmegaConf.create, content)]
    layers += [(f"command line: {override}", OmegaConf.from_dotlist, [override]) for override in overrides]
    for source, parse, values in layers:
        with _named(source):
            layer = parse(values)
            _check_keys(schema, layer, source)
            config = OmegaConf.merge(config, layer)
    with _named(name):
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(f"{name}: no value for {', '.join(missing)}")
        return OmegaConf.to_object(config)


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Says in one line where a value that cannot be used came from."""
    try:
        yield
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{source}: {f'{key}: ' if key else ''}{str(error).splitlines()[0]}") from error


def _check_keys(schema: type, layer: Any, source: str, prefix: str = "") -> None:
    known = {f.name: f for f in fields(schema)}
    for key in layer:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{source}: unknown key {prefix}{key}; the nearest is {prefix}{near}")
        default = known[key].default_factory
        if is_dataclass(default):
            if not OmegaConf.is_dict(layer[key]):
                inner = ", ".join(f.name for f in fields(default))
                raise ConfigError(f"{source}: {prefix}{key}: got {layer[key]!r}, expected a mapping with {inner}")
            _check_keys(default, layer[key], source, f"{prefix}{key}.")


def save_config(config: Any, path: str | Path) -> None:
    """Writes a configuration, every default included, as YAML (or JSON, where the name ends so)."""
    content = OmegaConf.to_container(OmegaConf.structured(config))
    text = json.dumps(content, indent=2) if str(path).endswith(".json") else yaml.safe_dump(content, sort_keys=False)
    Path(path).write_text(text)
