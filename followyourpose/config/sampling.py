"""Settings that generate and evaluate share: guidance, pose strength, device, and savings of time and memory."""

from dataclasses import dataclass, field
from typing import Any, Literal

from followyourpose.common.checks import check_bounds, check_interval, check_scale
from followyourpose.pipeline.schedule import check_numbers

PoseGuidance = Literal["both", "conditional"]
Overlap = Literal["distance", "size"]
Noise = Literal["independent", "mixed", "shared"]
Scheduler = Literal["ddim", "dpm++", "unipc", "euler", "lcm"]
Compile = Literal["false", "regional", "full"]
Backend = Literal["light", "puppet", "rtmlib", "mmpose"]
LARGEST_SEED = 2**63 - 1
LARGEST_SIDE = 8192  # pixels
NUMBERS = {"kind": float | dict[int, float]}
MOST_STEPS = 1000  # denoising steps: as many as the noise schedule has timesteps


@dataclass
class ThreadsConfig:
    """Share of the machine that a process takes, a setting of every verb that computes."""

    threads: int | None = None  # CPU threads of a process; None: one for each core that it may use

    def __post_init__(self) -> None:
        check_bounds(self, threads=1)


@dataclass
class SamplingConfig(ThreadsConfig):
    """Strength of text and pose, and savings of a denoising step."""

    pose_scale: Any = field(default=1.0, metadata=NUMBERS)  # multiplies the pose features; by frame: {0: 1.0, 16: 0.3}
    pose_start: float = 0.0  # fraction of the denoising steps after which the pose begins to act
    pose_end: float = 1.0  # fraction of the denoising steps after which the pose stops acting
    guidance_start: float = 0.0  # fraction of the denoising steps after which guidance begins; unguided steps cost half
    guidance_end: float = 1.0  # fraction of the denoising steps after which guidance ends
    scheduler: Scheduler = "ddim"  # dpm++, unipc: fewer steps; euler; lcm: 4 to 8, with an LCM-LoRA, guidance 1 to 2
    cache_interval: int = 1  # DeepCache interval: a full UNet step every N steps, only the first level in between
    compile: Compile = "false"  # full: the UNet, minutes at the start, faster steps; regional: its blocks, sooner
    device: str | None = None  # cpu, cuda, cuda:1, mps, xpu, ...; None: the GPU where there is one, else cpu
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"  # of the networks; auto: float32 on a CPU
    tf32: bool = False  # on an NVIDIA GPU, compute float32 with 10 bits of fraction: a multiple of the speed
    offload: Literal["none", "model", "group"] = "none"  # on the GPU: model, one network; group, single layers
    weights: Literal["full", "int8", "float8"] = "full"  # storage of the UNet's weights; int8 is nearer to full
    attention_chunk: int | None = None  # queries that attend at a time, for attentions that keep scores; None: all
    decode_chunk_size: int = 8  # frames that the VAE decodes at a time
    vae_tiling: bool = False  # decode large frames in overlapping tiles

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, cache_interval=1, decode_chunk_size=1, attention_chunk=1)
        check_interval("pose", self.pose_start, self.pose_end)
        check_interval("guidance", self.guidance_start, self.guidance_end)
        check_numbers("pose_scale", self.pose_scale, check_scale)
        for key, possible in (("offload", ("none",)), ("weights", ("full", "int8"))):
            if self.compile != "false" and getattr(self, key) not in possible:
                raise ValueError(
                    f"compile: got {self.compile} with {key}: {getattr(self, key)}, which moves weights between layers "
                    f"and breaks the graphs; expected {key}: {' or '.join(possible)}"
                )
