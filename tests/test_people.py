"""People with words of their own, and values along a video: exact where they change nothing, each in its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from followyourpose.pipeline.call import Call
from followyourpose.pipeline.people import Person
from followyourpose.pipeline.pipeline import FollowYourPosePipeline
from followyourpose.pipeline.schedule import along, blends, check_schedule, lines_of, numbers, texts_by_number
from followyourpose.pipeline.texts import slerp
from followyourpose.pipeline.windows import LongVideo
from followyourpose.pose.keypoints_file import ClipKeypoints, write_keypoints
from followyourpose.pose.regions import shares
from followyourpose.puppets.world import render_scene, sample_mixed_scene
from tests.poses import walking

F, SIDE = 4, 32
FAST: dict[str, Any] = {
    "num_frames": F, "height": SIDE, "width": SIDE, "num_inference_steps": 2, "guidance_scale": 3.0,
    "output_type": "latent",
}  # fmt: skip
LEFT, RIGHT = (walking(F, x, 0.2, 20.0) * (1, 1, 1) - (0, 67, 0) for x in (8.0, 24.0))  # feet at 28


def latents(pipe: FollowYourPosePipeline, prompt: Any, **arguments: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, **(FAST | arguments)).videos


def person(prompt: Any, keypoints: np.ndarray = LEFT, **more: Any) -> Person:
    return Person(prompt, keypoints.astype(np.float32), **more)


# ---- people ----------------------------------------------------------------------------------------------------------


def test_people_with_the_words_of_the_scene_change_nothing(pipe: FollowYourPosePipeline) -> None:
    from followyourpose.pose.render import render_skeleton

    skeleton = np.stack([render_skeleton([a, b], SIDE, SIDE) for a, b in zip(LEFT, RIGHT, strict=True)])
    plain = latents(pipe, "a cat", skeleton=skeleton)
    both = [person("a cat"), person("a cat", RIGHT)]
    assert torch.equal(latents(pipe, "a cat", skeleton=skeleton, people=both), plain)
    assert torch.equal(latents(pipe, "a cat", people=both), plain)  # their skeletons are drawn together
    assert torch.equal(latents(pipe, "a cat", people=[person("a dog"), person("a dog", RIGHT)], scene_share=1.0), plain)


def test_a_persons_words_act_where_that_person_is(pipe: FollowYourPosePipeline) -> None:
    def change(left: str, right: str) -> torch.Tensor:
        """Return the change of the latents' columns by people's words; beyond their places it is the network's."""
        same = latents(pipe, "a cat", people=[person("a cat"), person("a cat", RIGHT)])
        return (latents(pipe, "a cat", people=[person(left), person(right, RIGHT)]) - same).abs().mean((0, 1, 2, 3))

    left, right = change("a dog", "a cat"), change("a cat", "a dog")
    assert left[:8].sum() > left[8:].sum() and right[8:].sum() > right[:8].sum()


def test_people_are_drawn_in_windows_and_batches_as_in_one(pipe: FollowYourPosePipeline) -> None:
    people = [person("a dog"), person({0: "a cat", 2: "a dog"}, RIGHT)]
    how = {"people": people, "num_videos_per_prompt": 2, "noise": "shared"}
    one = latents(pipe, {0: "a cat", 2: "a dog"}, **how, long_video=LongVideo("blend", 2, 1))
    batched = latents(pipe, {0: "a cat", 2: "a dog"}, **how, long_video=LongVideo("blend", 2, 1, batch=2))
    assert one.shape == (2, 4, F, 16, 16)
    assert torch.allclose(one, batched, atol=1e-4)


def test_a_schedule_changes_the_frames_behind_its_key(pipe: FollowYourPosePipeline) -> None:
    # Windows of a frame each: none sees another.
    alone = {"long_video": LongVideo("blend", 1, 0), "skeleton": np.zeros((F, SIDE, SIDE, 3), np.uint8)}
    cat, dog = latents(pipe, "a cat", **alone), latents(pipe, "a dog", **alone)
    both = latents(pipe, {0: "a cat", 2: "a dog"}, **alone)
    assert torch.allclose(both[:, :, :2], cat[:, :, :2], atol=1e-5)
    assert torch.allclose(both[:, :, 2:], dog[:, :, 2:], atol=1e-5)
    low, high = latents(pipe, "a cat", **alone, guidance_scale=2.0), latents(pipe, "a cat", **alone, guidance_scale=6.0)
    guided = latents(pipe, "a cat", **alone, guidance_scale={0: 2.0, 3: 6.0})
    assert torch.allclose(guided[:, :, :3], low[:, :, :3], atol=1e-5)
    assert torch.allclose(guided[:, :, 3:], high[:, :, 3:], atol=1e-5)


def test_one_value_for_all_frames_is_the_plain_value(pipe: FollowYourPosePipeline) -> None:
    plain = latents(pipe, "a cat", people=[person("a dog")], pose_scale=0.5)
    scheduled = latents(pipe, {0: "a cat"}, people=[person({0: "a dog"})], pose_scale={0: 0.5}, guidance_scale={0: 3.0})
    assert torch.allclose(scheduled, plain, atol=1e-5)


def test_people_come_from_keypoints_files(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    write_keypoints(tmp_path / "left.json", ClipKeypoints(SIDE, SIDE, 8.0, [[pose] for pose in LEFT]))
    from_file = latents(pipe, "a cat", people=[{"prompt": "a dog", "skeleton": str(tmp_path / "left.json")}])
    assert torch.allclose(from_file, latents(pipe, "a cat", people=[person("a dog")]), atol=1e-2)


def test_people_that_cannot_be_drawn_are_refused_in_one_line(pipe: FollowYourPosePipeline, tmp_path: Path) -> None:
    crowd = tmp_path / "crowd.json"
    write_keypoints(crowd, ClipKeypoints(SIDE, SIDE, 8.0, [list(pair) for pair in zip(LEFT, RIGHT, strict=True)]))
    for people, expected in (
        ("a dog", "people: got 'a dog', expected a list of people"),
        ([{"prompt": "a dog"}], r"people\[0\]: got prompt, expected prompt, skeleton"),
        (
            [person("a dog"), person("a cat", depth=1)],
            "people: got a depth for 1 of 2, expected one for all or for none",
        ),
        ([person("a dog", LEFT[:2])], r"people\[0\].skeleton: got 2 frames, expected 4"),
        ([person("a dog", LEFT + 100)], r"people\[0\].skeleton: nobody is in the picture, 32 x 32 pixels"),
        ([{"prompt": "a dog", "skeleton": str(crowd)}], r"people\[0\].skeleton: .*2 people in frame 0, expected one"),
        ([person({2: "a dog"})], r"people\[0\].prompt: begins at frame 2, expected a value for frame 0"),
        ([person({0: "a cat", 9: "a dog"})], r"people\[0\].prompt: got frame 9, expected at most 3"),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            latents(pipe, "a cat", people=people)
        assert "\n" not in str(error.value)


# ---- LoRAs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hero(pipe: FollowYourPosePipeline) -> FollowYourPosePipeline:
    """The pipeline with a LoRA, "hero", in every layer that can have one, active."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for part, factor in (("unet", 0.3), ("text_encoder", 1.0)):
        for name, layer in getattr(pipe, part).named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and not name.startswith("time_embedding"):
                down = torch.randn(2, *layer.weight.shape[1:], generator=generator)
                up = torch.randn(len(layer.weight), 2, *(1 for _ in layer.weight.shape[2:]), generator=generator)
                down, up = factor * down / down[0].numel() ** 0.5, factor * up
                weights |= {f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up}
    pipe.load_lora_weights(weights, adapter_name="hero")
    return pipe


def test_a_lora_by_frame_acts_in_each_frame_as_with_its_scale_there(hero: FollowYourPosePipeline) -> None:
    alone = {"long_video": LongVideo("blend", 1, 0), "skeleton": np.zeros((F, SIDE, SIDE, 3), np.uint8)}
    by_frame = latents(hero, "a cat", **alone, lora_scales={"hero": {0: 1.0, 2: 0.3}})
    full = latents(hero, "a cat", **alone)
    hero.set_adapters("hero", 0.3)
    weak = latents(hero, "a cat", **alone)
    assert torch.allclose(by_frame[:, :, :2], full[:, :, :2], atol=1e-4)
    assert torch.allclose(by_frame[:, :, 2:], weak[:, :, 2:], atol=1e-4)
    assert not torch.allclose(full, weak, atol=1e-1)


def test_a_lora_of_somebody_who_fills_the_picture_is_one_of_the_video(
    hero: FollowYourPosePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"negative_prompt": "a dog", "cache_interval": 2, "num_inference_steps": 3, "num_videos_per_prompt": 2}
    everywhere = latents(hero, "a cat", people=[person("a cat")], **how)
    alone = latents(hero, "a cat", people=[person("a cat", lora="hero")], **how)
    assert not torch.allclose(alone, everywhere, atol=1e-1)
    monkeypatch.setattr(
        "followyourpose.pipeline.people.shares", lambda frames, h, w, *_: np.ones((1, len(frames), h, w))
    )
    alone = latents(hero, "a cat", people=[person("a cat", lora={"hero": {0: 1.0, 2: 1.0}})], **how)
    assert torch.allclose(alone, everywhere, atol=1e-4)
    hero.unload_lora_weights()
    without = latents(hero, "a cat", people=[person("a cat")], **how)
    assert not torch.allclose(without, everywhere, atol=1e-1)


def test_a_persons_lora_acts_where_that_person_is(hero: FollowYourPosePipeline) -> None:
    def drawn(left: Any, right: Any) -> torch.Tensor:
        return latents(hero, "a cat", people=[person("a cat", lora=left), person("a cat", RIGHT, lora=right)])

    none = drawn({"hero": 0.0}, None)
    left, right = ((drawn(*loras) - none).abs().mean((0, 1, 2, 3)) for loras in (("hero", None), (None, "hero")))
    assert left[:8].sum() > left[8:].sum() and right[8:].sum() > right[:8].sum()
    hero.unload_lora_weights()
    assert torch.allclose(latents(hero, "a cat", people=[person("a cat"), person("a cat", RIGHT)]), none, atol=1e-4)


def test_loras_by_person_and_frame_are_drawn_in_windows_and_batches_as_in_one(hero: FollowYourPosePipeline) -> None:
    people = [person("a dog", lora={"hero": {0: 1.0, 2: 0.3}}), person({0: "a cat", 2: "a dog"}, RIGHT)]
    how = {"people": people, "num_videos_per_prompt": 2, "noise": "shared", "transition": 1, "guidance_end": 0.5}
    one, batched = (
        latents(hero, {0: "a cat", 2: "a dog"}, **how, long_video=LongVideo("blend", 2, 1, batch=n)) for n in (1, 2)
    )
    assert torch.allclose(one, batched, atol=1e-4)


def test_loras_that_cannot_act_so_are_refused_in_one_line(hero: FollowYourPosePipeline) -> None:
    for arguments, expected in (
        ({"lora_scales": {"ink": 0.5}}, "lora: got 'ink', expected the name of a LoRA that is loaded and active: hero"),
        ({"lora_scales": 0.5}, "lora_scales: got 0.5, expected scales by the names of LoRAs"),
        ({"lora_scales": {"hero": {0: 1.0, 9: 0.5}}}, "lora_scales: hero: got frame 9, expected at most 3"),
        ({"lora_scales": {"hero": {1: 1.0}}}, "lora_scales: hero: begins at frame 1, expected a value for frame 0"),
        (
            {"people": [person("a cat", lora={"hero": "much"})]},
            r"people\[0\].lora: hero: got 'much', expected a number",
        ),
        ({"people": [person("a cat", lora=["hero"])]}, r"people\[0\].lora: got \['hero'\], expected scales by the"),
        (
            {"people": [person("a cat", lora="hero")], "lora_scales": {"hero": 1.0}},
            "lora_scales: got 'hero', which is a person's, expected LoRAs of the whole video",
        ),
    ):
        with pytest.raises(ValueError, match=expected) as error:
            latents(hero, "a cat", **arguments)
        assert "\n" not in str(error.value)
    layer = hero.unet.time_embedding.linear_1.weight
    weights = {"A": torch.ones(1, layer.shape[1]), "B": torch.ones(len(layer), 1)}
    hero.load_lora_weights(
        {f"unet.time_embedding.linear_1.lora_{key}.weight": weight for key, weight in weights.items()}, "time"
    )
    with pytest.raises(ValueError, match="time: got a LoRA of time_embedding.linear_1, which acts everywhere"):
        latents(hero, "a cat", lora_scales={"time": {0: 1.0, 2: 0.5}})
    latents(hero, "a cat", lora_scales={"time": {0: 0.5, 2: 0.5}})  # one number needs no map


def test_given_embeddings_of_any_length_need_no_encoder_for_loras_by_frame(hero: FollowYourPosePipeline) -> None:
    embeds = [hero.encode_prompt(text)[0].repeat(1, 2, 1) for text in ("a cat", "a dog")]
    how = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1], "lora_scales": {"hero": {0: 1.0, 2: 0.3}}}
    encoded = latents(hero, None, **how)
    hero.register_modules(text_encoder=None)
    assert torch.equal(latents(hero, None, **how), encoded)


# ---- regions ---------------------------------------------------------------------------------------------------------


def test_shares_cover_the_body_and_nothing_else() -> None:
    left, right = shares([[LEFT[0], RIGHT[0]]], SIDE, SIDE)[:, 0]
    assert all(left[round(y), round(x)] > 0.9 for x, y, _ in LEFT[0])
    assert max(left[:, 24:].max(), right[:, :8].max(), left[1].max()) < 1e-3
    assert set(np.unique(shares([[LEFT[0], RIGHT[0]]], SIDE, SIDE, soft=0))) <= {0, 0.5, 1}
    coarse = shares([[LEFT[0], RIGHT[0]]], SIDE // 4, SIDE // 4, cell=4)[0, 0]
    assert abs(coarse - left.reshape(8, 4, 8, 4).mean((1, 3))).mean() < 0.1  # of middles, in place of means


def test_bodies_that_overlap_share_or_hide() -> None:
    small = (LEFT[0] - LEFT[0].mean(0) * (1, 1, 0)) * (0.5, 0.5, 1) + LEFT[0].mean(0) * (1, 1, 0)
    frames = [[LEFT[0], small]]
    for order, front in (("size", 0), ((2.0, 1.0), 1), ((1.0, 2.0), 0)):
        given = shares(frames, SIDE, SIDE, order=order)[:, 0]
        assert np.allclose(given[front], shares([[frames[0][front]]], SIDE, SIDE)[0, 0])
        assert given.sum(0).max() <= 1 + 1e-9
    assert 0.3 < shares([[LEFT[0], LEFT[0]]], SIDE, SIDE)[0, 0].max() <= 0.5 + 1e-9


def test_nobody_has_no_share() -> None:
    assert shares([[np.zeros((17, 3)), LEFT[0]]], SIDE, SIDE)[0].max() == 0
    assert shares([[np.zeros((17, 3))]], SIDE, SIDE).max() == 0


# ---- schedules -------------------------------------------------------------------------------------------------------


def test_a_schedule_holds_and_changes_in_even_steps() -> None:
    assert numbers({0: 1.0, 3: 4.0}, range(7), transition=2) == [1, 1, 1, 2, 3, 4, 4]
    assert numbers({3: 4.0, 0: 1.0}, [0, 2, 3]) == [1, 1, 4]
    assert blends("a cat", range(2)) == [(0, 0, 0.0)] * 2


def test_texts_by_frame_are_lines_that_begin_with_numbers() -> None:
    for text, expected in (
        ("a cat: 3 of them, at 10:30", "a cat: 3 of them, at 10:30"),
        ("0: a cat\n 16 : a dog,\nsitting\n", {0: "a cat", 16: "a dog,\nsitting"}),
        ("a cat\n16:a dog", {0: "a cat", 16: "a dog"}),
        ("a clock\n10:30 in the morning", "a clock\n10:30 in the morning"),
    ):
        assert along("prompt", text) == expected
    assert along("prompt", lines_of({8: "a dog", 0: "a cat"})) == {0: "a cat", 8: "a dog"}
    assert texts_by_number("people", "3: a cat\n1:") == {3: "a cat", 1: ""} and texts_by_number("people", " ") == {}
    for text in ("a cat\n0: a dog", "1: a cat\n1: a dog"):
        with pytest.raises(ValueError, match="prompt: got [01]: twice, expected each number once"):
            along("prompt", text)


@pytest.mark.parametrize(
    "value, expected",
    [
        ({}, "x: begins at nothing, expected a value for frame 0"),
        ({4: 1.0}, "x: begins at frame 4, expected a value for frame 0"),
        ({0: 1.0, 8: 2.0}, "x: got frame 8, expected at most 7, the video's last"),
        ({0: 1.0, -1: 2.0}, "x: got frame -1, expected whole numbers from 0"),
        ({0: 1.0, 2: 2.0, 4: 3.0}, "x: got frames 2 and 4, expected them 3 apart or more, as transition is"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(value: dict[int, float], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        check_schedule("x", value, num_frames=8, transition=3)


def test_a_number_by_frame_is_checked_as_a_plain_one() -> None:
    for arguments, expected in (
        ({"guidance_scale": {0: "high"}}, "guidance_scale: got 'high', expected a number"),
        ({"pose_scale": {0: 1.0, 2: -1.0}}, "pose_scale: got -1.0, expected a finite number, at least 0"),
        ({"prompt": {0: "a cat", 4: 5}}, r"prompt: got \['a cat', 5\], expected a string"),
        ({"transition": -1}, "transition: got -1, expected at least 0"),
    ):
        with pytest.raises(ValueError, match=expected):
            Call(**({"prompt": "a cat"} | arguments))


def test_states_are_interpolated_on_an_arc() -> None:
    a, b = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [1.0, 1.0]])
    middle = slerp(a, b, 0.5)
    assert torch.allclose(middle, torch.tensor([[3 * 0.5**0.5, 3 * 0.5**0.5], [1.0, 1.0]]), atol=1e-5)
    assert slerp(a, b, 0) is a and slerp(a, b, 1) is b


def test_mixed_scenes_show_each_of_their_characters() -> None:
    scene, characters = sample_mixed_scene(np.random.default_rng(0), 3)
    frames, keypoints = render_scene(scene, 2, 64, 64, characters)
    same, _ = render_scene(scene, 2, 64, 64)
    assert len(set(characters)) == 3 and keypoints.shape == (2, 3, 17, 3)
    assert (frames != same).any() and scene.character == characters[0]
