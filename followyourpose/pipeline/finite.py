"""Latents that leave the range: NaN and infinity end a call in one line, not in a black video.

b videos   n frames of a window   c channels   h w latent height and width
"""

import torch
from torch import Tensor

from followyourpose.models.loading import is_offloaded
from followyourpose.pipeline.job import Job
from followyourpose.pipeline.schedule import highest


class FiniteLatents:
    """Check of the latents after each step; on a GPU it is read at the end of a window, and holds up no step."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.at_once = job.noise.device.type == "cpu"
        self.flags: list[tuple[int, Tensor]] = []  # step, whether its latents are finite

    def note(self, latents: Tensor, step: int) -> None:
        """Note the latents (b, c, n, h, w) after a step, counted from 0.

        Raises:
            ValueError: as `check`, where that holds up nothing.
        """
        self.flags.append((step, latents.isfinite().all()))
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise a ValueError, with the first step and the settings to lower, unless all noted latents are finite."""
        finite = torch.stack([flag for _, flag in self.flags]).tolist() if self.flags else []  # one read
        steps = [step for (step, _), good in zip(self.flags, finite, strict=True) if not good]
        self.flags = []
        if steps:
            reason = self._damage() or "; ".join(self._remedies())
            raise ValueError(f"the latents are not finite after step {steps[0] + 1} of {self.job.steps}: {reason}")

    def _damage(self) -> str | None:
        for part in ("unet", "pose_encoder"):
            network = getattr(self.job.pipe, part)
            if network is None or is_offloaded(network):  # its weights are not there now
                continue
            for name, weight in network.named_parameters():
                if not weight.float().isfinite().all():
                    return f"{part}.{name} is not finite: the model is damaged, or the weight of a LoRA is too high"
        return None

    def _remedies(self) -> list[str]:
        call = self.job.call
        found = [f"lower guidance_scale ({highest(call.guidance_scale):g})"] if call.guided else []
        found += [f"lower pose_scale ({call.pose_scale:g})"] if self.job.skeleton is not None else []
        found.append("lower the weights of LoRAs, if any")
        if self.job.pipe.unet.dtype == torch.float16:
            found.append("use bfloat16 or float32 in place of float16")
        return found
