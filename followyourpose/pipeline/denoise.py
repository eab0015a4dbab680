"""The denoising loop of the pipeline, over one window of a video or many (long_video.py says which frames they hold).

b videos   f frames of the video   n frames of a part   c channels   h w latent height and width   s steps
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from followyourpose.pipeline.call import CALLBACK_TENSORS, Job
from followyourpose.pipeline.inputs import Generators
from followyourpose.pipeline.windows import Window, blend_weights

if TYPE_CHECKING:
    from followyourpose.pipeline.pipeline import FollowYourPosePipeline


@dataclass
class StreamState:
    """Where a stream stands between two of its pieces; a new one stands at the beginning.

    Attributes:
        frames: how many are finished.
        known: what later frames need of them. Windows one after the other: after each step, the latents of the frames
            that the next window shares, (s, b, c, n, h, w). Windows together: the latents still to be decoded,
            (b, c, n, h, w). None: nothing yet.
        random: the states of the generators, (generators, bytes); None: nothing was drawn yet.
    """

    frames: int = 0
    known: Tensor | None = None
    random: Tensor | None = None


def denoise(pipe: "FollowYourPosePipeline", job: Job, state: StreamState) -> Iterator[Tensor]:
    """Gives latents (b, c, n, h, w), frame after frame, as soon as no window will touch them again.

    `state` is where to begin, and before each piece is brought up to where to go on after it.
    """
    if state.random is not None:
        restore_generators(job.generator, state.random)
    pipe.scheduler.set_timesteps(job.num_inference_steps, device=job.noise.device)  # here for their number only
    rest = [window for window in job.windows if window[-1] >= state.frames]
    rounds = int(state.known is None) if job.together else len(rest)
    with pipe.progress_bar(total=rounds * len(pipe.scheduler.timesteps)) as progress:
        if job.together:
            if state.known is None:
                state.known, _ = denoise_windows(pipe, job, job.windows, progress.update)
                state.random = generator_states(job.generator)
            while state.known.shape[2]:
                piece, state.known = state.known.tensor_split([len(job.windows[0])], dim=2)
                state.frames += piece.shape[2]
                yield piece.to(job.noise.device)
            return
        for window, following in zip(rest, [*rest[1:], ()], strict=True):
            latents, trajectory = denoise_windows(pipe, job, [window], progress.update, state, following)
            new = [i for i, frame in enumerate(window) if frame >= state.frames]
            state.frames, state.known, state.random = window[-1] + 1, trajectory, generator_states(job.generator)
            yield latents[:, :, new]
            if pipe.interrupt:
                return


def denoise_windows(
    pipe: "FollowYourPosePipeline",
    job: Job,
    windows: Sequence[Window],
    advance: Callable[[], Any],
    state: StreamState | None = None,
    following: Window = (),
) -> tuple[Tensor, Tensor]:
    """Denoises the n frames of these windows: their latents (b, c, n, h, w), in order, and what to remember of them.

    That is, after each step, the latents of the frames that are also in the `following` window: (s, b, c, m, h, w).
    The frames that are finished in `state` follow what it remembers of them, their own noise included.
    """
    frames = sorted({frame for window in windows for frame in window})
    place = {frame: i for i, frame in enumerate(frames)}

    def places(numbers: Iterable[int]) -> Tensor:  # on the device once, not at every step
        return torch.tensor([place[number] for number in numbers], dtype=torch.long, device=job.noise.device)

    of_windows = [places(window) for window in windows]
    known = places(frame for frame in frames if state is not None and frame < state.frames)
    kept = places(frame for frame in frames if frame in following)
    groups = [range(i, min(i + job.batch, len(windows))) for i in range(0, len(windows), job.batch)]

    # The state of a scheduler, such as the last predictions, is that of one denoising: it begins anew.
    scheduler, b = pipe.scheduler, len(job.noise)
    scheduler.set_timesteps(job.num_inference_steps, device=job.noise.device)
    latents = job.noise[:, :, frames].to(pipe.unet.dtype) * scheduler.init_noise_sigma
    weights = torch.from_numpy(blend_weights(windows)).to(latents)[:, :, None, None]  # (windows, T, 1, 1)
    embeds, keys_values, trajectory = job.embeds, job.keys_values, []
    deep: dict[range, Tensor | None] = {}  # per group, what the network computed below its first level
    steps = len(scheduler.timesteps)
    for i, timestep in enumerate(scheduler.timesteps):
        prediction = torch.zeros_like(latents)
        for group in groups:
            condition = job.condition(tuple(windows[k] for k in group), keys_values)
            condition.deep = deep.get(group)
            x = torch.cat([latents[:, :, of_windows[k]] for k in group])
            each = pipe.predict(x, timestep, condition, job.guidance_scale, i, steps).split(b)
            deep[group] = condition.deep
            for k, y in zip(group, each, strict=True):
                prediction[:, :, of_windows[k]] += weights[k] * y
        latents = scheduler.step(prediction, timestep, latents, **job.step_arguments).prev_sample
        if len(known):
            latents[:, :, known] = state.known[i].to(latents)
        advance()
        if job.callback is not None:
            tensors = dict(zip(CALLBACK_TENSORS, (latents, *embeds), strict=True))
            chosen = {name: tensors[name] for name in job.callback_inputs}
            changed = tensors | (job.callback(pipe, i, timestep, chosen) or {})
            latents, new_embeds = changed["latents"], tuple(changed[name] for name in CALLBACK_TENSORS[1:])
            if any(new is not old for new, old in zip(new_embeds, embeds, strict=True)):
                embeds, keys_values = new_embeds, job.text(*new_embeds)
        trajectory.append(latents[:, :, kept])
        if pipe.interrupt:
            break
    return latents, torch.stack(trajectory)


def generator_states(generator: Generators) -> Tensor | None:
    """The states of one generator or several, (generators, bytes); None: there is none, so nothing to remember."""
    generators = [] if generator is None else generator if isinstance(generator, list) else [generator]
    return torch.stack([each.get_state() for each in generators]) if generators else None


def restore_generators(generator: Generators, states: Tensor) -> None:
    """Brings generators to the states that `generator_states` gave of them.

    Raises:
        ValueError: there are more of them, or fewer.
    """
    generators = [] if generator is None else generator if isinstance(generator, list) else [generator]
    if len(generators) != len(states):
        raise ValueError(f"generator: got {len(generators)}, expected {len(states)}, as when the stream began")
    for each, state in zip(generators, states, strict=True):
        each.set_state(state)
