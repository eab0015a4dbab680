"""The denoising objective, targets, weights, noise and captions; and the decoder's, which builds on it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from followyourpose.data.batch import Batch
from followyourpose.training.components import export, load_component, load_scheduler
from followyourpose.training.loop import build_objective, train
from followyourpose.training.objectives import Denoise
from tests.runs import BASE, SIZE, STAGE1, STAGE2, all_weights, settings
from tests.tiny import DDIM, TEXT_WIDTH


def loss_of(objective: Denoise, captions: list[str]) -> float:
    """The loss of one fixed batch, with fixed random numbers, under these captions."""
    pixels = torch.rand(len(captions), 3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return objective(Batch(captions, pixels), torch.Generator().manual_seed(1)).item()


def test_dropped_captions_do_not_matter_and_kept_ones_do(world: Path, tmp_path: Path) -> None:
    one, other = ["a cat", "a dog"], ["dog", "can do"]
    for dropout, matter in ((0.0, True), (1.0, False)):
        objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"prompt_dropout={dropout}"))
        assert (loss_of(objective, one) != loss_of(objective, other)) == matter
    assert loss_of(objective, one) == loss_of(objective, ["", ""])


def test_after_a_shuffled_prefix_the_words_stay_and_what_is_known_of_earlier_ones_changes(
    world: Path, tmp_path: Path
) -> None:
    captions, cpu = ["a cat", "a dog", "dog can do", "do", "cat can dog"] * 4, torch.device("cpu")
    objectives = [
        build_objective(settings(world, tmp_path / "run", STAGE2, f"prefix_shuffle={share}")) for share in (0.0, 1.0)
    ]
    own, shuffled = (each.text(Batch(captions), torch.Generator().manual_seed(0), cpu) for each in objectives)
    ends = [len(ids) - 1 for ids in objectives[0].tokenizer(captions).input_ids]
    same = (own == shuffled).all(2)
    firsts = [int(row.int().argmin()) for row in same]  # where the first state is that is another
    assert same[:, :2].all() and not same[:, -1].all()
    assert all(first <= end or row.all() for first, end, row in zip(firsts, ends, same, strict=True))
    assert len({first for first, row in zip(firsts, same, strict=True) if not row.all()}) > 1


def test_a_text_encoder_can_be_trained_too_and_reads_no_cached_text_then(world: Path, tmp_path: Path) -> None:
    both = (r"trainable=[^unet\., ^text_encoder\.]", "prefix_shuffle=0.5", f"init={world / 'image-model'}")
    run = train(settings(world, tmp_path / "run", BASE, *both, f"data.cache={tmp_path / 'cache'}"))
    before = load_component(world / "image-model", "text_encoder").state_dict()
    after = StableDiffusionPipeline.from_pretrained(export(run, tmp_path / "out", torch.float32)).text_encoder
    assert any(not torch.equal(tensor, before[name]) for name, tensor in after.state_dict().items())
    objective = build_objective(settings(world, tmp_path / "next", BASE, *both))
    own = objective.text(Batch(["a cat"]), torch.Generator().manual_seed(0), torch.device("cpu"))
    cached = Batch(["a cat"], text=torch.zeros_like(own))
    assert torch.equal(objective.text(cached, torch.Generator().manual_seed(0), torch.device("cpu")), own)


def test_without_captions_there_is_no_prefix_to_shuffle(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, "prefix_shuffle=1", "prompt_dropout=1"))
    text = objective.text(Batch(["a cat", "a dog"]), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.equal(text, objective.encode_text(["", ""], torch.device("cpu")))


def test_a_share_of_the_clips_has_one_noise_for_all_frames(world: Path, tmp_path: Path) -> None:
    def shared(share: float) -> float:
        objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"shared_noise={share}"))
        noise = objective._noise((400, 1, 3, 2, 2), torch.Generator().manual_seed(0), torch.device("cpu"))
        assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
        return (noise[:, :, 0] == noise[:, :, 2]).flatten(1).all(1).float().mean().item()

    assert shared(0.0) == 0 and shared(1.0) == 1 and 0.4 < shared(0.5) < 0.6


def test_errors_count_more_where_a_person_is(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE1, "person_weight=4"))
    people = torch.zeros(1, 2, 17, 3)
    people[:, 0, :, :2], people[:, 0, :, 2] = torch.tensor([0.0, 0.0]), 1  # in the corner; a second one is not there
    weight = objective._person_weight(Batch(["a cat"], people=people), (8, 8))
    assert weight.shape == (1, 1, 1, 8, 8) and weight.mean() == pytest.approx(1)
    assert weight[..., 0, 0] / weight[..., 7, 7] == pytest.approx(4)
    with pytest.raises(ValueError, match="person_weight: got 2.0, expected 1: the data has no keypoints"):
        train(settings(world, tmp_path / "run", STAGE2, "person_weight=2"))
    assert not (tmp_path / "run").exists()


def test_min_snr_weighs_the_clean_latents_error_by_the_clipped_ratio(world: Path, tmp_path: Path) -> None:
    """Whatever is predicted, the weight of an error of the clean latents is min(SNR, gamma)."""
    objective = build_objective(settings(world, tmp_path / "run", STAGE2))
    timestep, gamma = torch.tensor([0, 300, 600, 999]), 5.0
    alpha = objective.scheduler.alphas_cumprod[timestep]
    snr = alpha / (1 - alpha)
    for kind, clean in (("epsilon", snr), ("v_prediction", snr + 1)):
        objective.scheduler.register_to_config(prediction_type=kind)
        weight = objective._snr_weight(timestep, gamma).flatten()
        torch.testing.assert_close(weight * clean, snr.clamp(max=gamma))
    objective.scheduler.alphas_cumprod[-1] = 0  # zero terminal SNR
    assert objective._snr_weight(timestep, gamma).flatten()[-1] == 0
    objective.scheduler.register_to_config(prediction_type="epsilon")
    assert objective._snr_weight(timestep, gamma).flatten()[-1] == 1


def test_offset_noise_shifts_a_channel_of_a_clip_as_a_whole(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, "noise_offset=0.5"))
    noise = objective._noise((300, 2, 4, 8, 8), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert noise.mean((2, 3, 4)).std() == pytest.approx(0.5, rel=0.1)


class Oracle(nn.Module):
    """A network that has the clean latents, and predicts noise or velocity from the noisy ones."""

    def __init__(self, scheduler: DDIMScheduler, clean: Tensor, kind: str) -> None:
        super().__init__()
        self.alphas, self.clean, self.kind = scheduler.alphas_cumprod, clean, kind

    def forward(self, noisy: Tensor, timestep: Tensor, text: Tensor, features: None) -> Tensor:
        assert text.shape[2] == TEXT_WIDTH and features is None
        alpha = self.alphas[timestep].reshape(-1, 1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return noise if self.kind == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_target_is_the_prediction_type_of_the_schedulers_config(world: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(world / "video-model", model)
    DDIMScheduler(**DDIM, prediction_type=kind).save_pretrained(model / "scheduler")
    assert load_scheduler(model).config.prediction_type == kind
    objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"init={model}"))
    mean = torch.randn(4, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    batch = Batch(["a cat"] * 4, moments=torch.cat([mean, torch.full_like(mean, -30)], 1))  # no variance
    clean = mean * objective.parts["vae"].config.scaling_factor
    for predicted in ("epsilon", "v_prediction"):
        objective.parts["unet"] = Oracle(objective.scheduler, clean, predicted)
        loss = objective(batch, torch.Generator().manual_seed(0)).item()
        assert (loss < 1e-6) == (predicted == kind) and (loss > 1e-2) == (predicted != kind)


def test_what_an_error_has_beyond_its_mean_over_the_frames_counts_as_much_more(world: Path, tmp_path: Path) -> None:
    mean = torch.randn(2, 4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    batch = Batch(["a cat"] * 2, moments=torch.cat([mean, torch.full_like(mean, -30)], 1))  # no variance
    steady, changing = torch.full((1, 1, 3, 1, 1), 2.0), torch.tensor([1.0, -2.0, 1.0]).view(1, 1, 3, 1, 1)

    def loss(weight: float, error: Tensor) -> float:
        objective = build_objective(settings(world, tmp_path / "run", STAGE2, f"change_weight={weight}"))
        clean = mean * objective.parts["vae"].config.scaling_factor
        oracle = Oracle(objective.scheduler, clean, "epsilon")
        objective.predict = lambda *inputs: oracle(*inputs) + error
        return objective(batch, torch.Generator().manual_seed(0)).item()

    for weight in (1.0, 5.0):
        assert loss(weight, steady) == pytest.approx(4, rel=1e-4)
        assert loss(weight, changing) == pytest.approx(2 * weight, rel=1e-4)
        assert loss(weight, steady + changing) == pytest.approx(4 + 2 * weight, rel=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_a_network_denoises_again_is_clean_where_it_knows_the_answer(
    world: Path, tmp_path: Path, kind: str
) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE1 | {"objective": "decode"}))
    objective.scheduler.register_to_config(prediction_type=kind)
    clean, noise = torch.randn(2, 2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    objective.parts["unet"] = Oracle(objective.scheduler, clean, kind)
    again = objective.sample_again(Batch(["a cat", "a dog"]), clean, noise, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again, clean, rtol=0, atol=1e-3)


def test_a_decoder_needs_the_poses_that_it_draws_again(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.skeleton: got False, expected True"):
        train(settings(world, tmp_path / "run", STAGE1 | {"objective": "decode"}, "data.skeleton=false"))
    assert not (tmp_path / "run").exists()


def test_a_decoder_is_trained_alone_beside_a_critic_that_is_not_exported(world: Path, tmp_path: Path) -> None:
    patterns = [r"^vae\.(decoder|post_quant_conv)\.", r"^critic\."]
    run = train(settings(world, tmp_path / "run", STAGE1 | {"objective": "decode", "trainable": patterns}))
    before = all_weights(world / "video-model")
    after = all_weights(export(run, tmp_path / "model", torch.float32))
    assert before.keys() == after.keys()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if re.match(patterns[0], name)}


def test_the_critic_learns_from_its_own_loss_and_only_the_decoder_from_its_verdict(world: Path, tmp_path: Path) -> None:
    run = STAGE1 | {"objective": "decode", "trainable": [r"^vae\.decoder\.", r"^critic\."]}
    objective = build_objective(settings(world, tmp_path / "run", run))
    pixels = torch.rand(2, 3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = Batch(["a cat", "a dog"], pixels, skeleton=(pixels + 1) / 2, people=torch.full((2, 1, 17, 3), 4.0))
    weights = [list(objective.parts[name].parameters()) for name in ("critic", "vae")]
    gradients = []
    for weight in (0.0, 7.0):
        objective.adversarial = objective.features = weight
        loss = objective(batch, torch.Generator().manual_seed(1))
        gradients.append([torch.autograd.grad(loss, each, retain_graph=True, allow_unused=True) for each in weights])
    of_critic, of_vae = zip(*gradients, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(*of_critic, strict=True))
    assert any(a is not None and not torch.equal(a, b) for a, b in zip(*of_vae, strict=True))


def test_a_decoder_leaks_where_a_place_changes_what_is_decoded_elsewhere(world: Path, tmp_path: Path) -> None:
    objective = build_objective(settings(world, tmp_path / "run", STAGE1 | {"objective": "decode"}))
    objective.tremor = 0.0
    latents = torch.randn(4, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0))

    def leak(decode: Callable[[Tensor], Tensor]) -> float:
        objective.decode = decode
        return objective.leak(latents, decode(latents), torch.Generator().manual_seed(1)).item()

    def local(latents: Tensor) -> Tensor:  # a pixel sees its latent and the neighbours
        return F.interpolate(F.avg_pool2d(latents[:, :, 0], 3, 1, 1), scale_factor=2)

    assert leak(local) < 1e-6
    assert leak(lambda latents: local(latents) + latents.mean(dim=(3, 4))[..., None]) > 1e-3
