"""The embedded default: the folders under checkpoints/ load, are small, and are one model at two moments."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from followyourpose import FollowYourPosePipeline
from followyourpose.evaluation.features import ClipFeatures
from followyourpose.evaluation.metrics import pck, top1
from followyourpose.models.inflate import NEW_LAYERS
from followyourpose.pose.detector import PuppetDetector
from followyourpose.pose.render import render_skeleton
from followyourpose.puppets.world import captions, render_scene, sample_scene
from scripts.baseline_systems import SYSTEMS, Task
from scripts.reproduce import TRAINED

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
SHIPPED = ("puppet", "puppet-base", "puppet-baselines", "puppet-eval", "puppet-lora-blueprint")


def weight_files() -> list[Path]:
    return sorted(file for name in SHIPPED for file in (CHECKPOINTS / name).rglob("*.safetensors"))


@pytest.fixture(scope="module")
def pipe() -> FollowYourPosePipeline:
    pipe = FollowYourPosePipeline.from_pretrained(CHECKPOINTS / "puppet", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_weights_are_half_precision_and_at_most_60_megabytes():
    """A clone has one object of what two models share, an autoencoder and a text encoder."""
    assert sum({file.read_bytes(): file.stat().st_size for file in weight_files()}.values()) <= 60e6
    for file in weight_files():
        with safe_open(file, "pt") as weights:
            kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}
        assert kinds <= {"F16", "I64"}, f"{file.relative_to(CHECKPOINTS)} has {kinds}"


@pytest.mark.parametrize("name", SHIPPED)
def test_each_folder_has_a_model_card(name):
    assert (CHECKPOINTS / name / "README.md").is_file()


def test_the_base_is_a_stable_diffusion_pipeline_for_diffusers():
    pipe = StableDiffusionPipeline.from_pretrained(CHECKPOINTS / "puppet-base", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a panda in the forest", num_inference_steps=1, output_type="np").images[0]
    assert image.shape == (128, 128, 3) and np.isfinite(image).all()


def test_stage_2_changed_only_the_queries_and_the_temporal_layers_of_the_base(pipe):
    base = FollowYourPosePipeline.from_image_model(CHECKPOINTS / "puppet-base")
    before, after = base.unet.state_dict(), pipe.unet.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("to_q" in name or any(layer in name for layer in NEW_LAYERS) for name in changed)


def test_a_skeleton_changes_what_is_drawn_and_none_does_not_need_one(pipe):
    frames, people = render_scene(sample_scene(np.random.default_rng(0), two=0), 2, 128, 128)
    latents = torch.randn(1, 8, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"num_inference_steps": 2, "guidance_scale": 1.0, "latents": latents, "output_type": "latent"}
    posed = pipe("a robot on the moon", frames, **settings).videos
    unposed = pipe("a robot on the moon", None, num_frames=2, **settings).videos
    assert not torch.allclose(posed, unposed)


def test_the_evaluators_recognise_the_world():
    rng = np.random.default_rng(7)
    scenes = [sample_scene(rng, two=0) for _ in range(40)]
    drawn = [render_scene(scene, 1, 128, 128) for scene in scenes]
    frames = np.concatenate([frames for frames, _ in drawn])
    detector = PuppetDetector.from_pretrained(CHECKPOINTS / "puppet-eval" / "detector").float().eval()
    assert pck(detector.detect(frames), np.concatenate([people[:, 0] for _, people in drawn])) > 0.9
    clip = ClipFeatures(CHECKPOINTS / "puppet-eval" / "clip")
    texts, names = clip.captions(captions((1,))), captions((1,))
    images = clip.images(frames)
    right = [names[top1(image[None], texts)] == scene.caption for image, scene in zip(images, scenes, strict=True)]
    assert np.mean(right) > 0.85


def test_the_style_is_drawn_by_the_lora_alone(pipe):
    """With the LoRA frames have no colour but blue; the same words without it change little."""
    frames, _ = render_scene(sample_scene(np.random.default_rng(0), two=0), 1, 128, 128)
    settings = {"num_inference_steps": 5, "guidance_scale": 1.0, "noise": "shared", "output_type": "np"}

    def colour(prompt: str) -> float:
        """How far the colours of a drawn frame are from a blueprint's, where blue is most and red is least."""
        red, green, blue = np.moveaxis(pipe(prompt, frames, generator=torch.manual_seed(0), **settings).videos, -1, 0)
        return float(np.maximum(red - green, 0).mean() + np.maximum(green - blue, 0).mean())

    plain = colour("iron man, yellow background, as a blueprint")
    pipe.load_lora_weights(CHECKPOINTS / "puppet-lora-blueprint", adapter_name="style")
    drawn = colour("iron man, yellow background, as a blueprint")
    pipe.unload_lora_weights()
    assert plain > 0.1 and drawn < 0.2 * plain


def test_the_style_is_a_lora_of_the_image_model_for_diffusers():
    pipe = StableDiffusionPipeline.from_pretrained(CHECKPOINTS / "puppet-base", torch_dtype=torch.float32)
    pipe.load_lora_weights(CHECKPOINTS / "puppet-lora-blueprint")
    assert pipe.get_list_adapters() == {"unet": ["default_0"]}


@pytest.mark.parametrize("name", [TRAINED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINED[1:])])
def test_other_systems_draw_in_the_poses_that_they_are_given(name):
    scene = sample_scene(np.random.default_rng(0), two=0)
    frames, people = render_scene(scene, 4, 128, 128)
    skeleton = np.stack([render_skeleton(list(each), 128, 128) for each in people])
    draw = SYSTEMS[name](CHECKPOINTS / "puppet-base", CHECKPOINTS / "puppet-baselines")
    (drawn,) = draw(
        [Task(scene.caption, skeleton, 0, (frames, scene.caption), (scene.character, scene.background), people[:, 0])]
    )
    detector = PuppetDetector.from_pretrained(CHECKPOINTS / "puppet-eval" / "detector").float().eval()
    assert pck(detector.detect(drawn), people[:, 0]) > 0.5
