"""Settings of `followyourpose train` and `cache`, each with its default, its unit and its check."""

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from followyourpose.common.checks import check_above_zero, check_bounds, check_scale, check_share
from followyourpose.config.loader import PROSE
from followyourpose.config.sampling import LARGEST_SEED, Compile, Noise, PoseGuidance, ThreadsConfig


@dataclass
class DataConfig:
    """Data set, geometry and loading of a run."""

    path: str = MISSING  # a folder; of images also shards by name, local or remote: https://host/{00000..00011}.tar
    kind: Literal["images", "clips"] = "images"  # images: .tar shards or a manifest; clips: a manifest or HD-VILA's
    height: int = 64  # pixels
    width: int = 64  # pixels
    num_frames: int = 1  # frames per clip
    stride: list[int] = field(default_factory=lambda: [1, 1])  # frames from one to the next: lowest and highest
    skeleton: bool = False  # render the keypoints and condition on them
    limit: int | None = None  # number of samples to use, from the first; None: all
    captions: str | None = None  # HD-VILA's .csv of part_id, clip_id, caption; None: the one in the folder
    min_keypoints: float = 0.5  # images need a person with more than this share of the joints visible; 0: any image
    min_caption: int = 1  # shortest caption of an image, in characters
    min_size: int = 0  # smallest side of an image, in pixels
    crop: Literal["center", "random"] = "center"  # part of a larger picture to take; people are kept inside
    flip: float = 0.0  # share of samples that are mirrored; not for captions that distinguish left from right
    cache: str | None = None  # folder of the encoded data set, made where it is missing; None: train on pixels
    max_bad: float = 0.1  # stop when more than this share of the samples cannot be read (after the first 50)
    workers: int = 0  # processes that read data, per training process
    timeout: float = 120.0  # seconds without a batch after which the workers are restarted
    download: str = "data/download"  # folder for copies of remote shards

    def __post_init__(self) -> None:
        check_bounds(self, "data.", height=1, width=1, num_frames=1, workers=0, min_caption=0, min_size=0, limit=1)
        for key in ("flip", "min_keypoints", "max_bad"):
            check_share(f"data.{key}", getattr(self, key))
        check_above_zero("data.timeout", self.timeout, "seconds")
        if len(self.stride) != 2 or not 1 <= self.stride[0] <= self.stride[1]:
            raise ValueError(f"data.stride: got {self.stride}, expected [lowest, highest] with 1 <= lowest <= highest")
        if self.cache is not None and self.cache.lower() in ("", "true", "false"):
            raise ValueError(f"data.cache: got {self.cache!r}, expected the folder of an encoded data set")


@dataclass
class OptimConfig:
    """AdamW and its schedule."""

    name: Literal["adamw", "adamw8bit"] = "adamw"  # adamw8bit: state in 8 bits (needs bitsandbytes and CUDA)
    batch_size: int = 8  # clips per process and step
    gradient_accumulation_steps: int = 1  # batches per optimiser step
    learning_rate: float = 1e-4  # its highest value
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # of the learning rate, after the warm-up
    warmup_steps: int = 0  # optimiser steps
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of AdamW
    weight_decay: float = 1e-2  # of AdamW
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    max_skipped: int = 20  # steps in a row that may be skipped for want of a finite gradient
    ema_decay: float | None = None  # decay of the moving average of the weights; None: no average

    def __post_init__(self) -> None:
        check_bounds(self, "optim.", batch_size=1, gradient_accumulation_steps=1, max_skipped=1, warmup_steps=0)
        for key in ("learning_rate", "weight_decay"):
            check_scale(f"optim.{key}", getattr(self, key))
        check_above_zero("optim.max_grad_norm", self.max_grad_norm)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: got {self.betas}, expected two numbers from 0 to below 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay: got {self.ema_decay}, expected a number from 0 to below 1, or null")


@dataclass
class ValidationConfig:
    """Videos that a run draws at intervals, from the same noise each time."""

    every: int = 0  # steps between two rounds; 0: never
    prompts: list[str] = field(default_factory=list, metadata=PROSE)  # one video each
    skeleton: str | None = None  # as for generate; None: the shipped sample; without effect where no pose is trained
    num_frames: int = 8  # frames per video
    num_inference_steps: int = 20  # denoising steps
    guidance_scale: float = 7.5  # of classifier-free guidance; 1: none
    pose_guidance: PoseGuidance = "both"  # halves of guidance that see the skeleton: both, or conditional only
    noise: Noise = "independent"  # initial noise of the frames: independent, mixed or shared

    def __post_init__(self) -> None:
        check_bounds(self, "validation.", every=0, num_frames=1, num_inference_steps=1)
        if self.every and not self.prompts:
            raise ValueError("validation.prompts: got none, expected at least one where validation.every is above 0")


@dataclass
class NetworkConfig:
    """Settings of the video UNet, for ablations; None: as in `init`, or the paper's for an inflated image model."""

    clip_norm: bool | None = None  # false: the residual blocks' norms take their statistics per frame
    cross_frame_attention: bool | None = None  # false: frames attend to themselves, not to the first and the previous
    pose_fusion: Literal["add", "concat"] | None = None  # concat: pose features beside the hidden states, not added
    temporal_rank: int | None = None  # rank of the temporal convolutions

    def changes(self) -> dict[str, Any]:
        """Return the settings that are set, by name."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass
class LoraConfig:
    """Low-rank additions to the frozen UNet, trained in its place: `trainable: ['^unet\\..*lora']`."""

    rank: int | None = None  # rank of the additions; None: no LoRA
    alpha: float | None = None  # the additions are scaled by alpha / rank; None: by 1
    targets: list[str] = field(  # regular expressions on names of the UNet's linear layers and convolutions
        default_factory=lambda: [r"attn[12]\.to_(q|k|v|out\.0)$"]
    )

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"lora.rank: got {self.rank}, expected at least 1, or null for no LoRA")
        if self.alpha is not None:
            check_above_zero("lora.alpha", self.alpha, "a number")


@dataclass
class TrainConfig(ThreadsConfig):
    """One run: its start, its data, what it trains, and where it writes."""

    output: str = MISSING  # the run's folder; the same command resumes what is there
    init: str = MISSING  # a pipeline folder, an image model's folder, or the folder of another run
    objective: Literal["denoise", "autoencode", "decode", "contrast", "locate"] = "denoise"  # loss; 2nd on: puppets'
    scratch: list[str] = field(default_factory=list)  # components that start from random weights
    network: NetworkConfig = field(default_factory=NetworkConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    trainable: list[str] = MISSING  # regular expressions on names, e.g. ^unet\..*attn_temp
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    steps: int = MISSING  # optimiser steps
    save_every: int = 500  # steps between checkpoints
    keep_checkpoints: int = 2  # number of checkpoints kept, the newest
    log_every: int = 20  # steps between lines of log.jsonl
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])  # of accelerate: tensorboard, wandb, ...
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    seed: int = 0  # of the data's order, the noise and the dropout
    mixed_precision: Literal["fp32", "fp16", "bf16", "no"] = "fp32"  # of activations; weights and optimiser are fp32
    gradient_checkpointing: bool = False  # compute activations twice, and keep fewer of them
    compile: Compile = "false"  # full: the UNet, minutes at the start, faster steps; regional: its blocks, sooner
    prompt_dropout: float = 0.0  # share of samples trained without their caption, for classifier-free guidance
    prefix_shuffle: float = 0.0  # share of captions whose later words are encoded behind another caption's first words
    kl: float = 1e-8  # of objective autoencode: weight of the latents' divergence from a standard normal
    noise_bias: float = 0.0  # share of timesteps drawn from the noisier half only
    min_snr_gamma: float | None = None  # timestep weights min(SNR, gamma) (arXiv 2303.09556), 5 is usual; None: even
    noise_offset: float = 0.0  # weight of noise that is one number per channel and clip, for darker and lighter videos
    shared_noise: float = 0.0  # share of clips whose frames all get the same noise, as `noise: shared` generates
    change_weight: float = 1.0  # weight of what an error has beyond its mean over the frames; above 1 steadies clips
    person_weight: float = 1.0  # weight of errors in a person's box; above 1 needs images with keypoints

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, steps=1, save_every=1, keep_checkpoints=1, log_every=1, seed=(0, LARGEST_SEED))
        for key in ("prompt_dropout", "prefix_shuffle", "noise_bias", "shared_noise"):
            check_share(key, getattr(self, key))
        for key in ("kl", "noise_offset", "change_weight", "person_weight"):
            check_scale(key, getattr(self, key))
        if self.min_snr_gamma is not None:
            check_above_zero("min_snr_gamma", self.min_snr_gamma)
        if self.objective == "denoise":
            self._check_cache()
        else:
            self._check_other_objective()
        if (changes := self.network.changes()) and "unet" in self.scratch:
            raise ValueError(f"network: got {changes}, which is for a video UNet; this run trains none")
        if self.lora.rank is not None and "unet" in self.scratch:
            raise ValueError(f"lora.rank: got {self.lora.rank}, expected a trained UNet, but unet is among scratch")

    def _check_cache(self) -> None:
        """A cache holds one view of each sample, encoded by networks that other runs have too."""
        data = self.data
        if data.cache is None:
            return
        for key, value, fixed in (("crop", data.crop, "center"), ("flip", data.flip, 0)):
            if value != fixed:
                raise ValueError(
                    f"data.{key}: got {value!r}, expected {fixed!r}: a cache holds one view of each sample"
                )
        if random := {"vae", "text_encoder"} & set(self.scratch):
            raise ValueError(
                f"data.cache: got {data.cache}, but {min(random)} is among scratch, so every run has another one"
            )

    def _check_other_objective(self) -> None:
        for key, value in (
            ("data.cache", self.data.cache),
            ("gradient_checkpointing", self.gradient_checkpointing),
            ("network", self.network.changes()),
            ("lora.rank", self.lora.rank),
            ("validation.every", self.validation.every),
        ):
            if value:
                raise ValueError(f"{key}: got {value}, which is for objective denoise; this one is {self.objective}")
