"""Scales of a call's LoRAs: numbers by frame, and people's LoRAs, which act in their places alone.

What a LoRA adds to a layer is multiplied by its map there: (f, 1, 1, 1) of numbers by frame, (f, h, w, 1) of people's
shares of the places. A text has no place: a person's is encoded with that person's LoRAs, the scene's without them.

f frames   p people   h w height and width of a level
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from followyourpose.common.checks import check_finite
from followyourpose.models.adapters import LoraScale, active_loras, check_mapped
from followyourpose.models.loading import blocks_per_group
from followyourpose.pipeline.schedule import Numbers, check_numbers, check_schedule, numbers, values_of
from followyourpose.pipeline.texts import TextScales


@dataclass(frozen=True, eq=False)
class LoraScales:
    """Scales of the LoRAs of a call by their names; of those that are not named, 1.

    Attributes:
        everywhere: of LoRAs that act in all places.
        people: of each person's LoRAs.
        transition: frames between two numbers, see schedule.py.
    """

    everywhere: Mapping[str, Numbers]
    people: Sequence[Mapping[str, Numbers]] = ()
    transition: int = 0

    @property
    def names(self) -> list[str]:
        """The named LoRAs."""
        return list(dict.fromkeys([*self.everywhere, *(name for own in self.people for name in own)]))

    def constant(self, name: str) -> float | None:
        """Return the one number of a LoRA that acts in all places; None: it has several, or is a person's."""
        values = values_of(self.everywhere[name]) if name in self.everywhere else []
        return float(values[0]) if len(set(values)) == 1 else None

    def of_text(self, num_frames: int, person: int | None = None) -> list[TextScales]:
        """Return the LoRAs of the scene's text, or of a person's, in each frame of a video."""
        used = {**self.everywhere, **({} if person is None else self.people[person])}
        each = [numbers(used.get(name, 0.0), range(num_frames), self.transition) for name in self.names]
        return [tuple(zip(self.names, scales, strict=True)) for scales in zip(*each, strict=True)] or [()] * num_frames

    def of_window(self, window: Sequence[int], places: Sequence[Tensor]) -> dict[str, LoraScale]:
        """Return the LoRAs' scales in a window's frames.

        Args:
            places: people's shares of each level's places, (p, f, h_i, w_i); without people, any (0, f, 1, 1).
        """

        def along(scale: Numbers) -> Tensor:
            return places[0].new_tensor(numbers(scale, window, self.transition))[:, None, None]

        def of_people(name: str, level: Tensor) -> Tensor:
            own = [level[i] * along(scales[name]) for i, scales in enumerate(self.people) if name in scales]
            return torch.stack(own).sum(0)[..., None]

        scales: dict[str, LoraScale] = {}
        for name in self.names:
            if name not in self.everywhere:
                scales[name] = [of_people(name, level) for level in places]
            elif (constant := self.constant(name)) is not None:
                scales[name] = constant
            else:
                scales[name] = [along(self.everywhere[name])[..., None]] * len(places)
        return scales


def check_lora_scales(name: str, scales: Any, num_frames: int | None = None, transition: int = 0) -> None:
    """Raise a ValueError unless these are numbers, or numbers by frame, by the names of LoRAs; None: there are none."""
    if scales is None:
        return
    if not isinstance(scales, Mapping):
        raise ValueError(
            f"{name}: got {scales!r:.60}, expected scales by the names of LoRAs, {{'ink': {{0: 1.0, 16: 0.3}}}}"
        )
    for lora, scale in scales.items():
        check_numbers(f"{name}: {lora}", scale, check_finite)
        check_schedule(f"{name}: {lora}", scale, num_frames, transition)


def open_lora_scales(
    pipe: Any, everywhere: Mapping[str, Numbers] | None, people: Sequence[Mapping[str, Numbers]], transition: int
) -> LoraScales:
    """Return the scales of a call's LoRAs, all of which its pipeline has.

    Raises:
        ValueError: one is not loaded, or not active, or cannot act by frame or person.
    """
    scales = LoraScales(everywhere or {}, people, transition)
    both = [name for own in people for name in own if name in scales.everywhere]
    if both:
        raise ValueError(f"lora_scales: got {both[0]!r}, which is a person's, expected LoRAs of the whole video")
    if scales.names:
        active = sorted(active_loras(pipe.unet) | active_loras(pipe.text_encoder))
        for name in scales.names:
            if name not in active:
                there = ", ".join(active) or "none"
                raise ValueError(f"lora: got {name!r}, expected the name of a LoRA that is loaded and active: {there}")
        if blocks_per_group(pipe.unet.down_blocks[0]):
            raise ValueError(
                "lora: blocks are offloaded as a whole, expected other offload for LoRAs by frame or person"
            )
        check_mapped(pipe.unet, [name for name in scales.names if scales.constant(name) is None])
    return scales
