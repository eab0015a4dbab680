"""Long videos through the pipeline: equal results, memory of one window, and streams that go on anywhere."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from torch import Tensor

from followyourpose import FollowYourPosePipeline
from followyourpose.pipeline.denoise import StreamState
from followyourpose.pipeline.windows import MODES, LongVideo

FRAMES, SIDE, LATENT = 7, 16, 8  # of the videos; pixels of their sides; of the latents' sides
PAPER = LongVideo("paper", window=4, overlap=2)  # frames 0 to 3, 2 to 5, 3 to 6
SETTINGS = {"num_inference_steps": 3, "guidance_scale": 4.0, "height": SIDE, "width": SIDE, "output_type": "latent"}
WITH_PIXELS = SETTINGS | {"output_type": "np"}
SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler]


@pytest.fixture(scope="module")
def acting(shallow: FollowYourPosePipeline) -> FollowYourPosePipeline:
    return shallow


@pytest.fixture(scope="module")
def skeleton() -> np.ndarray:
    """A bar that moves to the right, bytes (7, 16, 16, 3)."""
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[2:14, 2 * i : 2 * i + 3] = (255, 80, 0)
    return frames


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe: FollowYourPosePipeline, skeleton: Any, long_video: LongVideo | None, **settings: Any) -> Tensor:
    settings = {"generator": seeded(), "num_frames": FRAMES} | SETTINGS | settings
    return pipe("a cat", skeleton, long_video=long_video, **settings).videos


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4, rtol=1e-4)


def recorder(steps: list[tuple[int, Tensor]]) -> Any:
    """Return a callback that appends the step and its latents (b, c, n, h, w), of every window, to a list."""

    def keep(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        steps.append((step, tensors["latents"].clone()))
        return {}

    return keep


# ---- equal results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_one_window_is_the_plain_pipeline_bit_for_bit(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, scheduler: type
) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    plain = run(pipe, skeleton, None)
    for mode in MODES:
        assert torch.equal(plain, run(pipe, skeleton, LongVideo(mode))), mode


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("anchor", [False, True])
def test_shared_frames_follow_the_previous_window_at_every_step(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, scheduler: type, anchor: bool
) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    long_video = LongVideo("paper", window=4, overlap=2, anchor=anchor)
    windows, steps = long_video.windows(FRAMES), []
    video = run(pipe, skeleton, long_video, callback_on_step_end=recorder(steps))
    assert [step for step, _ in steps] == [0, 1, 2] * len(windows)
    latents = {(k, frame, step): x[:, :, i] for n, (step, x) in enumerate(steps)
               for k in [n // 3] for i, frame in enumerate(windows[k])}  # fmt: skip
    for (k, frame, step), x in latents.items():
        if k and (k - 1, frame, step) in latents:
            assert torch.equal(x, latents[k - 1, frame, step])
        if step == 2:
            assert torch.equal(x, video[:, :, frame])


def test_the_second_windows_first_half_is_the_first_ones_second(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray
) -> None:
    steps, nine = [], skeleton[[*range(FRAMES), 1, 0]]
    run(pipe, nine, LongVideo("paper", window=6), num_frames=9, callback_on_step_end=recorder(steps))
    first, second = steps[2][1], steps[5][1]
    assert torch.equal(second[:, :, :3], first[:, :, 3:]) and not torch.equal(second[:, :, 3:], first[:, :, 3:])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_window_of_known_frames_changes_only_the_others(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, scheduler: type
) -> None:
    """The first window is that of a video which ends with it: nothing reaches back, a scheduler's state included."""
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    latents = torch.randn(1, 4, FRAMES, LATENT, LATENT, generator=seeded())
    long = run(pipe, skeleton, PAPER, latents=latents)
    short = run(pipe, skeleton[:4], None, num_frames=4, latents=latents[:, :, :4])
    assert torch.equal(long[:, :, :4], short)


@pytest.mark.parametrize("mode", ["blend", "freenoise"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_windows_in_one_batch_equal_windows_by_themselves(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, mode: str, guidance_scale: float
) -> None:
    skeletons, generators = np.stack([skeleton, skeleton[:, :, ::-1]]), [seeded(1), seeded(2)]
    states = [each.get_state() for each in generators]

    def videos(batch: int) -> Tensor:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        long_video = LongVideo(mode, window=4, batch=batch)
        settings = SETTINGS | {"guidance_scale": guidance_scale, "pose_guidance": "conditional"}
        return pipe(["a cat", "a dog"], skeletons, long_video=long_video, generator=generators, **settings).videos

    assert close(videos(1), videos(2))  # three windows: two batches


def test_blend_averages_predictions_by_weight(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    settings = {"num_inference_steps": 1, "guidance_scale": 1.0}
    latents = torch.randn(1, 4, 6, LATENT, LATENT, generator=seeded())
    both = run(pipe, skeleton[:6], LongVideo("blend", window=4), num_frames=6, latents=latents, **settings)
    parts = [
        run(pipe, skeleton[i : i + 4], None, num_frames=4, latents=latents[:, :, i : i + 4], **settings) for i in (0, 2)
    ]
    assert close(both[:, :, :2], parts[0][:, :, :2]) and close(both[:, :, 4:], parts[1][:, :, 2:])
    for frame, weight in ((2, 2 / 3), (3, 1 / 3)):  # triangles 1 2 2 1: one DDIM step is affine in the prediction
        mean = weight * parts[0][:, :, frame] + (1 - weight) * parts[1][:, :, frame - 2]
        assert close(both[:, :, frame], mean)


def test_batches_of_videos_equal_single_ones(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    settings = SETTINGS | {"long_video": PAPER}
    together = pipe(["a cat", "a dog"], skeleton, generator=[seeded(1), seeded(2)], **settings).videos
    alone = [
        pipe(prompt, skeleton, generator=seeded(seed), **settings).videos
        for seed, prompt in ((1, "a cat"), (2, "a dog"))
    ]
    assert close(together, torch.cat(alone))


# ---- noise ----------------------------------------------------------------------------------------------------------


def noise_of(pipe: FollowYourPosePipeline, monkeypatch: pytest.MonkeyPatch, mode: str, noise: str) -> Tensor:
    """Return the initial noise of a call, (c, f, h, w)."""
    jobs = []
    monkeypatch.setattr("followyourpose.pipeline.pipeline.denoise", lambda job, state: jobs.append(job) or [job.noise])
    long_video = LongVideo(mode, window=4, overlap=2)
    pipe("a cat", num_frames=FRAMES, long_video=long_video, generator=seeded(), noise=noise, **SETTINGS)
    return jobs[0].noise[0]


@pytest.mark.parametrize("noise", ["independent", "mixed", "shared"])
def test_noise_does_not_depend_on_how_windows_fall(
    pipe: FollowYourPosePipeline, monkeypatch: pytest.MonkeyPatch, noise: str
) -> None:
    whole = noise_of(pipe, monkeypatch, "full", noise)
    for mode in ("paper", "blend"):
        assert torch.equal(noise_of(pipe, monkeypatch, mode, noise), whole)
    if noise == "shared":
        assert all(torch.equal(whole[:, 0], whole[:, i]) for i in range(FRAMES))


def test_freenoise_has_only_the_first_windows_noise(
    pipe: FollowYourPosePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = noise_of(pipe, monkeypatch, "full", "independent")
    noise = noise_of(pipe, monkeypatch, "freenoise", "independent")
    assert torch.equal(noise[:, :4], whole[:, :4])
    assert all(any(torch.equal(noise[:, i], whole[:, j]) for j in range(4)) for i in range(FRAMES))
    assert not torch.equal(noise[:, 4:], whole[:, 4:])
    shared = noise_of(pipe, monkeypatch, "freenoise", "shared")
    assert torch.equal(shared, noise_of(pipe, monkeypatch, "full", "shared"))


# ---- streaming ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_stream_gives_the_video_of_a_call(pipe: FollowYourPosePipeline, skeleton: np.ndarray, mode: str) -> None:
    long_video = LongVideo(mode, window=4)
    settings = SETTINGS | {"output_type": "np", "long_video": long_video, "decode_chunk_size": 1}
    parts = list(pipe.stream("a cat", skeleton, generator=seeded(), **settings))
    assert all(part.shape[0] == 1 and part.shape[2:] == (SIDE, SIDE, 3) for part in parts)
    lengths = {"paper": [4, 2, 1], "full": [FRAMES], "blend": [4, 3], "freenoise": [4, 3]}
    assert [part.shape[1] for part in parts] == lengths[mode]
    whole = pipe("a cat", skeleton, generator=seeded(), **settings).videos
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_text_is_encoded_once_and_a_pose_once_per_window(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    poses, texts = [], []
    pipe.pose_encoder.register_forward_hook(lambda _, inputs, __: poses.append(inputs[0].shape[2]))
    to_keys = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    to_keys.register_forward_hook(lambda _, inputs, __: texts.append(len(inputs[0])))
    run(pipe, skeleton, PAPER)
    assert poses == [4] * 3 and texts == [2]


@pytest.mark.parametrize("mode", ["paper", "blend"])
def test_skeletons_may_come_when_they_are_needed(pipe: FollowYourPosePipeline, skeleton: np.ndarray, mode: str) -> None:
    asked = []

    def frames(numbers: tuple[int, ...]) -> np.ndarray:
        asked.append(tuple(numbers))
        return skeleton[list(numbers)]

    long_video = LongVideo(mode, window=4, batch=2)
    lazy = run(pipe, frames, long_video)
    assert asked == [(0,), *long_video.windows(FRAMES)]  # one for its size, then each window's once, not once per step
    assert torch.equal(lazy, run(pipe, skeleton, long_video))


def test_a_stream_never_holds_more_than_a_window(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    long, sizes = skeleton[np.arange(24) % FRAMES], {pipe.unet: [], pipe.pose_encoder: [], pipe.vae.decoder: []}
    for module in sizes:
        module.register_forward_hook(lambda module, inputs, _: sizes[module].append(inputs[0].numel()))
    state, known = StreamState(), []
    for _ in pipe.stream("a cat", long, generator=seeded(), long_video=PAPER, state=state, **WITH_PIXELS):
        known.append(state.known.numel())
    frame = 4 * LATENT * LATENT
    assert [max(each, default=0) for each in sizes.values()] == [4 * frame, 4 * 3 * SIDE * SIDE, 4 * frame]
    assert max(known) == 3 * 2 * frame and known[-1] == 0  # of three steps, the two frames that the next window shares


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("scheduler", [DDIMScheduler, UniPCMultistepScheduler])
def test_a_stream_taken_up_anywhere_goes_on_bit_for_bit(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, mode: str, scheduler: type
) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    settings = SETTINGS | {"long_video": LongVideo(mode, window=4, anchor=mode == "paper"), "eta": 0.5}

    def stream(state: StreamState) -> Any:
        return pipe.stream("a cat", skeleton, generator=seeded(), state=state, **settings)

    state, parts, states = StreamState(), [], [StreamState()]
    for part in stream(state):
        parts.append(part)
        states.append(copy.deepcopy(state))
        assert state.frames == sum(part.shape[2] for part in parts)
    assert state.frames == FRAMES
    for done, before in enumerate(states[1:-1], start=1):  # a new stream gives the next part and state
        assert torch.equal(next(stream(before)), parts[done])
        for name, value in vars(states[done + 1]).items():
            torch.testing.assert_close(getattr(before, name), value, rtol=0, atol=0)
    assert list(stream(states[-1])) == []  # after the last part there is nothing left to do


def test_a_stream_is_taken_up_with_as_many_generators(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    state = StreamState()
    next(pipe.stream("a cat", skeleton, generator=seeded(), long_video=PAPER, state=state, **SETTINGS))
    with pytest.raises(ValueError, match="generator: got 0, expected 1"):
        next(pipe.stream("a cat", skeleton, long_video=PAPER, state=state, **SETTINGS))


def test_an_interrupted_call_keeps_the_windows_it_has(pipe: FollowYourPosePipeline, skeleton: np.ndarray) -> None:
    seen = []

    def stop(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        seen.append(step)
        pipe._interrupt = len(seen) == 4
        return {}

    video = run(pipe, skeleton, PAPER, callback_on_step_end=stop)
    assert seen == [0, 1, 2, 0] and video.shape[2] == 6


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupted_window_is_no_position_to_go_on_from(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, mode: str
) -> None:
    def stop(pipe: FollowYourPosePipeline, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Any]:
        pipe._interrupt = step == 1
        return {}

    def stream(state: StreamState, **settings: Any) -> list[Tensor]:
        settings |= SETTINGS | {"generator": seeded(), "long_video": LongVideo(mode, window=4)}
        return list(pipe.stream("a cat", skeleton, state=state, **settings))

    state = StreamState()
    stream(state, callback_on_step_end=stop)
    assert (state.frames, state.known, state.random) == (0, None, None)
    assert torch.equal(torch.cat(stream(state), 2), torch.cat(stream(StreamState()), 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"long_video": LongVideo(window=12)}, "long_video.window: got 12 frames, expected at most"),
        ({"long_video": LongVideo(window=4, overlap=4)}, "long_video.overlap: got 4 frames, expected"),
        ({"skeleton": lambda frames: np.zeros((1, 16, 16, 3), np.uint8)}, "num_frames: got none, expected a number"),
        (
            {"skeleton": lambda frames: np.zeros((1, 16, 16, 3), np.uint8), "num_frames": 2},
            r"skeleton: got \(1, 3, 1, 16, 16\) for 2 frames, expected \(1, 3, 2, 16, 16\)",
        ),
        ({"skeleton": lambda frames: np.zeros((len(frames), 8, 8, 3), np.uint8), "num_frames": 2}, "got 8 x 8 pixels"),
        ({"output_type": "gif"}, "output_type: got 'gif'"),
    ],
)
def test_wrong_argument_is_named(
    pipe: FollowYourPosePipeline, skeleton: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        list(pipe.stream(**{"prompt": "a cat", "skeleton": skeleton} | SETTINGS | arguments))
    with pytest.raises(TypeError, match="num_frame"):
        pipe.stream("a cat", num_frame=3)
