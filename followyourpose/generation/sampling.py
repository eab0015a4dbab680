"""Settings of strength, speed and memory, which generate and evaluate share, applied to a pipeline and its calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from followyourpose.common.device import use_threads
from followyourpose.config import ConfigError, SamplingConfig

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

    from followyourpose.pipeline.pipeline import FollowYourPosePipeline

# Name -> the class of diffusers, and its arguments beside the model's own settings.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}
ARGUMENTS = (
    "pose_scale", "pose_start", "pose_end", "guidance_start", "guidance_end", "cache_interval", "decode_chunk_size",
)  # fmt: skip
NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def sampling_arguments(config: SamplingConfig) -> dict[str, Any]:
    """Return the settings that are arguments of every call of the pipeline."""
    return {name: getattr(config, name) for name in ARGUMENTS}


def prepare(pipe: "FollowYourPosePipeline", config: SamplingConfig, device: "str | torch.device") -> None:
    """Move a loaded pipeline to its device, with the scheduler and the savings of the settings, in place.

    Raises:
        ConfigError: a setting cannot be used on this device or with this model.
    """
    import torch  # late: the command line reads the table above without the seconds that this takes

    from followyourpose.models.int8_weights import keep_in_int8

    use_threads(config.threads)
    device = torch.device(device)
    if config.offload != "none" and device.type not in ("cuda", "xpu"):
        raise ConfigError(
            f"offload: got {config.offload!r} on {device}, expected none: it saves the memory of a GPU alone"
        )
    pipe.scheduler = scheduler(config.scheduler, pipe.scheduler)
    if config.weights == "int8":
        keep_in_int8(pipe.unet)
    elif config.weights == "float8":
        pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=pipe.unet.dtype)
    if config.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif config.offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.tf32
    pipe.unet.set_attention_chunk(config.attention_chunk)
    if config.vae_tiling:
        pipe.vae.enable_tiling()
    pipe.compile(config.compile)


def scheduler(name: str, current: "SchedulerMixin") -> "SchedulerMixin":
    """Return the scheduler of that name with the model's noise schedule, prediction type and timesteps.

    Raises:
        ConfigError: the model predicts neither noise nor velocity, or noise at a timestep that is all noise.
    """
    import diffusers

    kind, changes = SCHEDULERS[name]
    config = current.config
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise ConfigError(
            f"scheduler: the model's prediction_type is {config.prediction_type!r}, expected epsilon or v_prediction"
        )
    if config.get("rescale_betas_zero_snr") and config.prediction_type == "epsilon":
        raise ConfigError(
            "scheduler: the model has rescale_betas_zero_snr with prediction_type 'epsilon': its last timestep is all "
            "noise, whose prediction leaves the video undetermined; expected v_prediction"
        )
    return getattr(diffusers, kind).from_config(config, **changes)


@contextmanager
def memory_explained(pipe: "FollowYourPosePipeline", config: SamplingConfig) -> Iterator[None]:
    """Turn a lack of memory into a ConfigError that names the settings that need less."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        message = str(error).splitlines()[0]
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in message.lower() for text in NO_MEMORY):
            raise
        raise ConfigError(f"out of memory ({message}); to need less: {'; '.join(remedies(pipe, config))}") from error


def remedies(pipe: "FollowYourPosePipeline", config: SamplingConfig) -> list[str]:
    """Return the unused settings that lower the need of memory, with the saving of each on this pipeline's weights."""
    import torch

    from followyourpose.models.int8_weights import int8_layers

    names = ("text_encoder", "pose_encoder", "unet", "vae")
    sizes = [sum(p.numel() * p.element_size() for p in getattr(pipe, name).parameters()) / 2**20 for name in names]
    total, largest, unet = sum(sizes), max(sizes), sizes[2]
    on_gpu = pipe._execution_device.type in ("cuda", "xpu")
    found = ["fewer num_frames, or a smaller height and width (the need of a step is proportional to each)"]
    if pipe.unet.dtype == torch.float32:
        found.append(f"dtype=bfloat16 (half of all, {total / 2:.0f} MB of the weights)")
    if config.offload == "none" and on_gpu:
        found.append(
            f"offload=model ({total - largest:.0f} MB of the weights), offload=group (nearly all {total:.0f} MB)"
        )
    if config.weights == "full":
        saved = sum(layer.weight.nbytes - layer.weight.numel() for layer in int8_layers(pipe.unet)) / 2**20
        found.append(f"weights=int8 ({saved:.0f} MB of the UNet's {unet:.0f} MB)")
    if config.decode_chunk_size > 1:
        found.append(f"decode_chunk_size=1 (decoding needs up to {config.decode_chunk_size} times as much)")
    if not config.vae_tiling:
        found.append(
            "vae_tiling=true (decoding needs as much as for a frame of the size that the model was trained at)"
        )
    return found
