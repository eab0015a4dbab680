"""The denoising loop of the pipeline, over one window of a video or many (windows.py plans them).

b videos   f frames of the video   n frames of a part   c channels   h w latent height and width   s steps
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from followyourpose.models.unet import TextCache
from followyourpose.pipeline.call import CALLBACK_TENSORS
from followyourpose.pipeline.finite import FiniteLatents
from followyourpose.pipeline.job import Job, set_timesteps
from followyourpose.pipeline.schedule import highest
from followyourpose.pipeline.windows import Window, blend_weights


class StateError(ValueError):
    """A state of a stream that does not fit its arguments, or is damaged."""


@dataclass
class StreamState:
    """Position of a stream between two of its parts; a new one is at the beginning.

    Attributes:
        frames: number of finished frames.
        known: latents that later frames need. Windows one after the other: after each step, the latents of the frames
            that the next window shares, (s, b, c, n, h, w). Windows together: the latents still to be decoded,
            (b, c, n, h, w). None: nothing yet.
        random: states of n generators, (n, bytes); None: nothing was drawn yet.
    """

    frames: int = 0
    known: Tensor | None = None
    random: Tensor | None = None


def check_state(job: Job, state: StreamState) -> None:
    """Raise a StateError unless a stream of this job can have come to `state`."""
    b, c, total, h, w = job.noise.shape
    ends: Collection[int] = range(total + 1)
    shape: tuple[int, ...] = (b, c, total - state.frames, h, w)
    finished = [window for window in job.windows if window[-1] < state.frames]
    rest = [window for window in job.windows if window[-1] >= state.frames]
    if not job.long_video.together:
        shared = len({*finished[-1]} & {*rest[0]}) if finished and rest else 0
        ends, shape = [0, *(window[-1] + 1 for window in job.windows)], (job.steps, b, c, shared, h, w)
    if state.frames not in ends:
        raise StateError(f"state: got {state.frames} finished frames, expected the end of a window")
    if state.known is None and state.frames or state.known is not None and state.known.shape != shape:
        got = None if state.known is None else tuple(state.known.shape)
        raise StateError(f"state: got known latents {got}, expected {shape}, as the arguments of its stream have them")
    if state.known is not None and not state.known.isfinite().all():
        raise StateError("state: got known latents with NaN or infinity")
    if state.random is not None:  # tried with others
        restore_generators([torch.Generator(each.device) for each in job.call.generators], state.random)


def denoise(job: Job, state: StreamState) -> Iterator[Tensor]:
    """Yield latents (b, c, n, h, w), frame after frame, as soon as no window changes them again.

    The denoising begins at `state`, which before each part is brought to the position after it; a part that a callback
    interrupted is the last one, and leaves the state as it was.
    """
    pipe = job.pipe
    if state.random is not None:
        restore_generators(job.call.generators, state.random)
    rest = [window for window in job.windows if window[-1] >= state.frames]
    rounds = int(state.known is None) if job.long_video.together else len(rest)
    with pipe.progress_bar(total=rounds * job.steps) as progress:
        if job.long_video.together:
            if state.known is None:
                latents, _ = denoise_windows(job, job.windows, progress.update)
                if pipe._interrupt:
                    yield latents
                    return
                state.known, state.random = latents, generator_states(job.call.generators)
            while state.known.shape[2]:
                part, state.known = state.known.tensor_split([len(job.windows[0])], dim=2)
                state.frames += part.shape[2]
                yield part.to(job.noise.device)
            return
        for window, following in pairwise([*rest, ()]):
            latents, trajectory = denoise_windows(job, [window], progress.update, state, following)
            part = latents[:, :, [i for i, frame in enumerate(window) if frame >= state.frames]]
            if pipe._interrupt:
                yield part
                return
            state.frames, state.known = window[-1] + 1, trajectory
            state.random = generator_states(job.call.generators)
            yield part


def denoise_windows(
    job: Job,
    windows: Sequence[Window],
    advance: Callable[[], Any],
    state: StreamState | None = None,
    following: Window = (),
) -> tuple[Tensor, Tensor]:
    """Return the latents (b, c, n, h, w) of the n frames of these windows, in order, and a part of their trajectory.

    The trajectory holds, after each step, the latents of the frames that are also in the `following` window:
    (s, b, c, m, h, w). The frames that are finished in `state` follow the trajectory there, their own noise included.
    """
    frames = sorted({frame for window in windows for frame in window})
    place = {frame: i for i, frame in enumerate(frames)}

    def places(numbers: Iterable[int]) -> Tensor:  # on the device once, not at every step
        return torch.tensor([place[number] for number in numbers], dtype=torch.long, device=job.noise.device)

    finished, before = (0, None) if state is None else (state.frames, state.known)
    known = places(frame for frame in frames if frame < finished)
    kept = places(frame for frame in frames if frame in following)

    # The state of a scheduler, such as the last predictions, is that of one denoising: it begins anew, as does what
    # callbacks have changed.
    scheduler = job.pipe.scheduler
    set_timesteps(scheduler, job.call)
    job.pipe.begin(job.call, job.steps)
    latents = job.noise[:, :, frames].to(job.pipe.unet.dtype) * scheduler.init_noise_sigma
    predict = WindowPrediction(job, windows, [places(window) for window in windows], latents)
    finite = FiniteLatents(job)
    step_arguments, embeds, trajectory = job.step_arguments(), job.text.embeds, []
    keys_values, scale = job.text.keys_values, job.pipe.cross_attention_scale
    for i, timestep in enumerate(scheduler.timesteps):
        prediction = predict(latents, timestep, keys_values, i)
        latents = scheduler.step(prediction, timestep, latents, **step_arguments).prev_sample
        if before is not None and len(known):
            latents[:, :, known] = before[i].to(latents)
        finite.note(latents, i)
        advance()
        latents, *changed = _call_back(job, i, timestep, latents, embeds)
        rescaled = job.pipe.cross_attention_scale != scale
        if rescaled or any(new is not old for new, old in zip(changed, embeds, strict=True)):
            embeds, scale = (changed[0], changed[1]), job.pipe.cross_attention_scale
            keys_values = job.text.project(*embeds)
        trajectory.append(latents[:, :, kept])
        if job.pipe._interrupt:
            break
    finite.note(latents, i)  # the last callback may have changed them
    finite.check()
    return latents, torch.stack(trajectory)


class WindowPrediction:
    """Predicted noise of the frames of windows, averaged by weight where windows overlap."""

    def __init__(self, job: Job, windows: Sequence[Window], places: Sequence[Tensor], like: Tensor) -> None:
        self.job, self.windows, self.places = job, windows, places
        self.weights = torch.from_numpy(blend_weights(windows)).to(like)[:, :, None, None]  # (windows, T, 1, 1)
        batch = job.long_video.batch
        self.groups = [range(i, min(i + batch, len(windows))) for i in range(0, len(windows), batch)]
        self.deep: dict[range, Tensor | None] = {}  # per group, the UNet's deep features at its last full step

    def __call__(self, latents: Tensor, timestep: Tensor, keys_values: TextCache, step: int) -> Tensor:
        """Return the noise (b, c, n, h, w) of latents (b, c, n, h, w)."""

        def predict(group: range, x: Tensor) -> Tensor:
            condition = self.job.condition(tuple(self.windows[k] for k in group), keys_values)
            condition.deep = self.deep.get(group)
            scale = self.job.guidance(tuple(self.windows[k] for k in group))
            noise = self.job.pipe.predict(x, timestep, condition, scale, step, self.job.steps)
            self.deep[group] = condition.deep
            return noise

        prediction = torch.zeros_like(latents)
        inputs = (torch.cat([latents[:, :, self.places[k]] for k in group]) for group in self.groups)
        noises = self.job.pipe.map_windows(predict, self.groups, inputs)
        for group, noise in zip(self.groups, noises, strict=True):
            for k, y in zip(group, noise.split(len(latents)), strict=True):
                prediction[:, :, self.places[k]] += self.weights[k] * y
        return prediction


def _call_back(job: Job, step: int, timestep: Tensor, latents: Tensor, embeds: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return latents and embeddings after the callback of a step, in the order of `CALLBACK_TENSORS`.

    Raises:
        ValueError: it gave tensors of other shapes, or began guidance, for which there is no unconditional half.
    """
    tensors = dict(zip(CALLBACK_TENSORS, (latents, *embeds), strict=True))
    if job.call.callback_on_step_end is not None:
        chosen = {name: tensors[name] for name in job.call.callback_inputs}
        given = job.call.callback_on_step_end(job.pipe, step, timestep, chosen) or {}
        scale = highest(job.pipe.guidance_scale)
        if scale > 1 and not job.call.guided:
            raise ValueError(f"guidance_scale: a callback set {scale:g} in a call without guidance, expected at most 1")
        for name in given.keys() & tensors.keys():
            tensors[name] = _returned(name, given[name], tensors[name], ended=scale <= 1)
    return [tensors[name] for name in CALLBACK_TENSORS]


def _returned(name: str, new: Tensor, old: Tensor, ended: bool) -> Tensor:
    """Return the tensor (n, ...) of a callback in place of another one; of embeddings, one may stand for n.

    diffusers' callbacks that end guidance cut the unconditional half off the embeddings. Ours have only the other half,
    of which they leave the last prompts: all are kept.
    """
    if new.shape == old.shape:
        return new
    if name != "latents" and new.ndim == 3 and new.shape[2] == old.shape[2] and 0 < len(new) <= len(old):
        if ended and torch.equal(new, old[-len(new) :]):
            return old
        if len(new) in (1, len(old)):
            return new.expand(len(old), -1, -1)
    raise ValueError(f"{name}: a callback gave {tuple(new.shape)}, expected {tuple(old.shape)}")


def generator_states(generators: Sequence[torch.Generator]) -> Tensor | None:
    """Return the states (n, bytes) of n generators; None: there are none."""
    return torch.stack([each.get_state() for each in generators]) if generators else None


def restore_generators(generators: Sequence[torch.Generator], states: Tensor) -> None:
    """Bring n generators to their states (n, bytes).

    Raises:
        StateError: the numbers differ, or these are no states of generators.
    """
    if len(generators) != len(states):
        raise StateError(f"generator: got {len(generators)}, expected {len(states)}, as when the stream began")
    try:
        for each, state in zip(generators, states, strict=True):
            each.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise StateError(f"state: got states that no generator has ({str(error).splitlines()[0]})") from error
