"""Condition videos: what the transformer is fed, and what is cached."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXFunControlPipeline
from PIL import Image

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.control.hiding import first_last, prefix, randomly_masked
from cogvx_exp.data.control.reading import probe_control
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.data.decoding import read_clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.diffusion.batch import Batch, collate
from cogvx_exp.diffusion.denoise import model_inputs
from cogvx_exp.diffusion.latents import LatentSpace
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.estimate.trace.fake_models import fake_transformer
from cogvx_exp.estimate.trace.training_step import step_bytes
from cogvx_exp.evaluation.conditioned import encode_condition
from cogvx_exp.loading.condition import with_condition
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.media.video import write_video
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_transformer, load_vae, pipeline_folder
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.training.run import accelerator_for
from cogvx_exp.training.setup import PreparedData, Training, build_training, prepare_data
from tests.control_data import write_dataset
from tests.entry import train as main
from tests.golden.update import IMAGE_FILE, IMAGE_RUN
from tests.pipeline_inputs import inputs_at, some_inputs

WEIGHT = "patch_embed.proj.weight"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("control"))


def prepare(make_job, tmp_path: Path, root: Path, *settings: str) -> tuple[Any, PreparedData, Training]:
    dropout = [] if any("dropout" in text for text in settings) else ["task.condition_dropout=0"]
    job = make_job("task=control", "data=files", f"data.root={root}", *dropout, *settings)
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, tmp_path / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        return job, data, build_training(job, data, accelerator)


def one_batch(training: Training, data: PreparedData) -> Batch:
    batch = with_condition(collate([training.samples[SampleIndex(7, 1)]]), data.context, None)
    return replace(batch, timesteps=torch.tensor([417]))


def control_frames(job, data: PreparedData) -> np.ndarray:
    """The control video of the batch's clip."""
    clip = data.clips[1]
    assert clip.control
    choice = choose_frames(job.data, clip.bucket.num_frames)
    return read_clip(clip.control.path, choice, clip.bucket, ResizeSpec("center"), probe_control(clip.control.path))


def fed_by_the_pipeline(job, data, training, batch, noisy, frames, monkeypatch) -> dict[str, Any]:
    """What CogVideoXFunControlPipeline calls the transformer with at the batch's timestep, from the same latents."""
    scheduler = load_scheduler(data.pipeline, "ddim")
    pipeline = CogVideoXFunControlPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=load_vae(data.pipeline, data.compute, job.memory),
        transformer=training.transformer.eval(),
        scheduler=scheduler,
    )
    height, width = frames.shape[1:3]
    return inputs_at(
        pipeline,
        int(batch.timesteps[0]),
        monkeypatch,
        control_video=[Image.fromarray(frame) for frame in frames],
        prompt_embeds=batch.prompt_embeds,
        guidance_scale=1.0,
        latents=noisy,
        height=height,
        width=width,
    )


@pytest.mark.parametrize("size", [("32", "48"), ("48", "64")], ids=["native", "other"])
@pytest.mark.parametrize("model", ["tiny-5b-i2v", "tiny-5b", "tiny-2b"])
def test_training_feeds_the_model_what_the_pipeline_feeds_it(
    make_job, tmp_path: Path, root: Path, model: str, size: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    height, width = size
    buckets = [f"data.height_buckets=[{height}]", f"data.width_buckets=[{width}]"]
    buckets += [f"validation.height={height}", f"validation.width={width}"]
    job, data, training = prepare(make_job, tmp_path, root, f"model={model}", *buckets)
    batch = one_batch(training, data)
    alphas = load_scheduler(data.pipeline, "ddim").alphas_cumprod
    signal = alphas[batch.timesteps].view(-1, 1, 1, 1, 1)
    noisy = signal.sqrt() * batch.latents + (1 - signal).sqrt() * batch.noise
    ours = model_inputs(noisy, batch, dict(training.transformer.config), torch.float32)
    frames = control_frames(job, data)
    theirs = fed_by_the_pipeline(job, data, training, batch, noisy, frames, monkeypatch)
    assert ours["hidden_states"][:, :, 16 // 4 :].abs().max() > 0.1
    for name in ("hidden_states", "encoder_hidden_states", "timestep"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-4, check_dtype=False)
    if ours["image_rotary_emb"] is None:
        assert theirs["image_rotary_emb"] is None
    else:
        for mine, other in zip(ours["image_rotary_emb"], theirs["image_rotary_emb"], strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("model", ["tiny-1.5-i2v", "tiny-1.5"])
def test_conditions_of_15_are_padded_like_its_clips(make_job, tmp_path: Path, root: Path, model: str) -> None:
    """diffusers' control pipeline refuses every length that 1.5 takes, so the test computes the tensor."""
    job, data, training = prepare(make_job, tmp_path, root, f"model={model}")
    batch = one_batch(training, data)
    frames = torch.from_numpy(control_frames(job, data)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    vae = load_vae(data.pipeline, data.compute, job.memory)
    mean = vae.encode(frames).latent_dist.mean * vae.config.scaling_factor
    expected = torch.cat([mean[:, :, :1], mean], dim=2).transpose(1, 2)
    assert batch.condition is not None
    torch.testing.assert_close(batch.condition, expected, rtol=1e-4, atol=1e-4)
    assert batch.condition.shape == batch.latents.shape


def test_dropped_conditions_are_zero(make_job, tmp_path: Path, root: Path) -> None:
    _, data, training = prepare(make_job, tmp_path, root, "model=tiny-5b-i2v", "task.condition_dropout=0.5")
    samples = collate([training.samples[SampleIndex(number, 1)] for number in range(40)])
    condition = data.context.task.condition(samples.extras, samples.latents, None)
    assert condition is not None
    kept = condition.flatten(1).abs().amax(1) > 0
    assert 8 < kept.sum() < 32
    torch.testing.assert_close(condition[kept], condition[kept][:1].expand_as(condition[kept]))
    assert data.context.task.without_dropout().settings.condition_dropout == 0


@pytest.mark.parametrize("task", [["task=i2v"], ["task=control", "task.condition=first", "task.image_dropout=0.05"]])
def test_the_first_frame_as_condition_is_image_to_video(task: list[str], tmp_path: Path, shared_cache: Path) -> None:
    """The losses are those from before there were other conditions, to the bit."""
    settings = [f"run_dir={tmp_path / 'run'}", f"cache_dir={shared_cache}", "model=tiny-5b-i2v", *task]
    assert main([*settings, *IMAGE_RUN]) == 0
    golden = json.loads(IMAGE_FILE.read_text())
    assert [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl")] == golden


def test_a_widened_model_starts_as_its_base(make_job) -> None:
    for model in ("tiny-5b", "tiny-1.5"):
        job = make_job(f"model={model}")
        folder, compute = pipeline_folder(job.model, job.cache_dir), choose_compute("cpu", job.model)
        base = load_transformer(folder, compute)
        wide = load_transformer(folder, compute, in_channels=2 * base.config.in_channels)
        given = some_inputs(base.config)
        if model == "tiny-1.5":
            given = {**given, "hidden_states": given["hidden_states"][:, :2], "image_rotary_emb": None}
            base.config.use_rotary_positional_embeddings = False
        noisy = given.pop("hidden_states")
        beside = torch.cat([noisy, torch.randn_like(noisy)], dim=2)
        with torch.no_grad():
            expected = base(hidden_states=noisy, **given, return_dict=False)[0]
            found = wide(hidden_states=beside, **given, return_dict=False)[0]
        torch.testing.assert_close(found, expected)


def test_encoded_datasets_have_condition_latents(make_job, tmp_path: Path) -> None:
    root = tmp_path / "latents"
    moments = torch.randn(2, 8, 3, 4, 6, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    for folder, tensor in {"video_latents": moments[0], "control_latents": moments[1]}.items():
        (root / folder).mkdir(parents=True)
        torch.save(tensor, root / folder / "a.pt")
    (root / "prompt_embeds").mkdir()
    torch.save(torch.randn(226, 32), root / "prompt_embeds/a.pt")
    (root / "prompts.txt").write_text("a\n")
    (root / "videos.txt").write_text("videos/a.mp4\n")
    job = make_job("model=tiny-5b-i2v", "task=control", "data=latents", f"data.root={root}", "validation=none")
    clips = load_dataset(job.data, job.cache_dir)
    assert not clips.issues
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, clips, compute, tmp_path / "faults.csv", ProcessGroup())
    samples = TrainingSamples(data.encoded.training, LatentSpace(2.8, None, 1000), job.data, data.context.task, 0)
    batch = with_condition(collate([samples[SampleIndex(3, 0)]]), data.context, None)
    torch.testing.assert_close(batch.condition, moments[1, :4].transpose(0, 1)[None] * 2.8)
    torch.save(moments[1, :, :2], root / "control_latents/a.pt")
    (issue,) = load_dataset(job.data, job.cache_dir).issues
    assert "has control_latents of shape (8, 2, 4, 6), but latents of (8, 3, 4, 6)" in issue.what
    (root / "control_latents/a.pt").unlink()
    (issue,) = load_dataset(job.data, job.cache_dir).issues
    assert issue.what == "has no control_latents, which task=control needs"


HIDING = {
    "first_last": ([], [first_last]),
    "prefix": (["task.prefix_frames=[1,5]"], [partial(prefix, count=1), partial(prefix, count=5)]),
    "mask": (["task.masks=2"], [partial(randomly_masked, number=0), partial(randomly_masked, number=1)]),
}


@pytest.mark.parametrize("condition", HIDING)
def test_hidden_parts_are_encoded_as_defined(condition: str, make_job, tmp_path: Path, root: Path) -> None:
    """Every sample has one of the variants of its clip, and in the long run all of them."""
    settings, functions = HIDING[condition]
    job, data, training = prepare(
        make_job, tmp_path, root, "model=tiny-5b-i2v", f"task.condition={condition}", *settings
    )
    clip = data.clips[1]
    frames = read_clip(
        clip.row.path, choose_frames(job.data, clip.bucket.num_frames), clip.bucket, ResizeSpec("center"), clip.info
    )
    vae = load_vae(data.pipeline, data.compute, job.memory)
    expected = [encode_condition(function(frames), vae, training.transformer.config)[0] for function in functions]
    seen = set()
    for number in range(12):
        batch = with_condition(collate([training.samples[SampleIndex(number, 1)]]), data.context, None)
        assert batch.condition is not None
        far = [float((batch.condition[0] - latents).abs().max()) for latents in expected]
        assert min(far) < 1e-4
        seen.add(far.index(min(far)))
    assert seen == set(range(len(functions)))


def test_masks_come_from_files(make_job, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    mask = np.zeros((17, 32, 48, 3), np.uint8)
    mask[:, :16] = 255
    write_video(root / "mask.mp4", mask, 8)
    (root / "masks.txt").write_text("mask.mp4\n" * 4)
    settings = ["model=tiny-5b", "task.condition=mask", "task.masks=files"]
    job, data, training = prepare(make_job, tmp_path, root, *settings)
    (request,) = data.validator.requests if data.validator else []
    frames = data.validator.controls[request] if data.validator else None
    assert frames is not None
    assert np.abs(frames[:, :14].astype(int) - 128).max() < 20
    assert np.abs(frames[:, 18:].astype(int) - 128).max() > 50
    vae = load_vae(data.pipeline, data.compute, job.memory)
    expected = encode_condition(frames, vae, training.transformer.config)
    batch = with_condition(collate([training.samples[SampleIndex(7, 0)]]), data.context, None)
    torch.testing.assert_close(batch.condition, expected, rtol=1e-4, atol=1e-4)


def test_memory_is_predicted_for_the_widened_model(make_job, tmp_path: Path, root: Path) -> None:
    job, _, training = prepare(make_job, tmp_path, root, "model=tiny-5b")
    shape = Bucket(9, 32, 48)
    fake = trainable_parameters(fake_transformer(job, torch.float32, {shape}))
    real = trainable_parameters(training.transformer)
    assert {name: tuple(x.shape) for name, x in fake.items()} == {name: tuple(x.shape) for name, x in real.items()}
    assert WEIGHT in fake
    predicted = step_bytes(job, shape, {shape}, "cpu")
    bytes_of_weights = sum(parameter.nbytes for parameter in training.transformer.parameters())
    assert predicted.between["weights"] + predicted.between["trained weights"] == pytest.approx(
        bytes_of_weights, rel=0.02
    )
