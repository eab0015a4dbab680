"""Conditioning of the denoising by text and pose, and the intervals of steps in which each of them acts.

b videos   f frames   c channels   h w latent height and width   t text tokens
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from followyourpose.models.adapters import LoraScale
from followyourpose.models.blocks import for_each_text
from followyourpose.models.unet import TextCache

Interval = tuple[float, float]  # start and end, as fractions of the denoising steps
ALWAYS: Interval = (0.0, 1.0)


@dataclass
class Condition:
    """Condition of b videos; with guidance, both halves [unconditional, conditional], so 2b.

    Guidance in an interval of the steps is that of Kynkaanniemi et al. (2024, arXiv 2404.07724): outside of it only the
    conditional half is computed. Where the pose does not act it is `no_pose`, to the UNet none and to a compiled UNet
    the same graph.

    `deep` are the UNet's features below its first level at the last full step, of this condition's one trajectory.
    """

    text: TextCache  # every layer's keys and values, each (b or 2b, t, c), or the text (b or 2b, t, d)
    features: list[Tensor] | None  # per level (b or 2b, c_i, f, h / 2^i, w / 2^i); None: no pose
    guidance_interval: Interval = ALWAYS
    pose_interval: Interval = ALWAYS
    cache_interval: int = 1  # a full step every so many steps
    no_pose: list[Tensor] | None = None  # zeros like the features; None: the pose always acts
    loras: Mapping[str, LoraScale] = field(default_factory=dict)  # of the named LoRAs; maps of (b f) images
    deep: Tensor | None = field(default=None, init=False, repr=False)  # (b f or 2b f, c, h, w)

    def at(self, step: int, steps: int, videos: int, guided: bool) -> tuple[TextCache, list[Tensor] | None]:
        """Return the text and features of b videos that act at a step, counted from 0; both for b or, if guided, 2b.

        Shapes: text (b or 2b, t, c) per layer, features (b or 2b, c_i, f, h / 2^i, w / 2^i) per level.
        """
        text, features = self.text, self.features
        if features is not None and not _within(self.pose_interval, step, steps):
            features = self.no_pose
        if not guided or not _within(self.guidance_interval, step, steps):
            text = [[tuple(x[-videos:] for x in context) for context in block] for block in text]
            features = None if features is None else [x[-videos:] for x in features]
        return text, features

    def with_loras(self, x: Tensor, rows: int) -> tuple[Tensor, dict[str, LoraScale]]:
        """Return latents (b, c, f, h, w) and LoRAs' scales as the UNet takes them for so many texts.

        Where LoRAs have maps, the latents and these are repeated for each text of a clip, which elsewhere the UNet
        itself does at its first text attention: every layer has the same images.
        """
        if not any(isinstance(scale, list) for scale in self.loras.values()):
            return x, dict(self.loras)
        frames, scales = x.shape[2], self.loras.items()
        repeated = {
            name: [for_each_text(level, rows * frames) for level in scale] if isinstance(scale, list) else scale
            for name, scale in scales
        }
        return for_each_text(x, rows), repeated

    def deep_at(self, step: int, rows: int) -> Tensor | None:
        """Return the deep features (rows, c, h, w) that a step reuses; None: it is a full one.

        So are the steps at which guidance begins or ends.
        """
        full = step % self.cache_interval == 0 or self.deep is None or len(self.deep) != rows
        return None if full else self.deep


def _within(interval: Interval, step: int, steps: int) -> bool:
    return interval[0] <= step / steps < interval[1]
