"""Settings of validation and `generate` reach the pipeline. Nothing is sampled."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from cogvx_exp import generate as generate_module
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import GenerateJob, Score
from cogvx_exp.config.schema.model import Native, Sampling
from cogvx_exp.config.typed import typed
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.evaluation import adapter, generation, sampling, validation
from cogvx_exp.evaluation.requests import conditions_of, controls, start_images, validation_prompts
from cogvx_exp.evaluation.sampling import Given
from cogvx_exp.model.device import Compute
from cogvx_exp.tasks import condition_video
from cogvx_exp.tasks.base import build_task
from cogvx_exp.tasks.control import CONDITIONS
from cogvx_exp.tasks.first_frame import _with_noise
from cogvx_exp.training import setup
from tests.conftest import MakeJob
from tests.replaced import ReachedError, replaced

SAMPLED = {
    **{"num_frames": 17, "height": 64, "width": 80, "num_inference_steps": 3, "guidance_scale": 2.5},
    **{"dynamic_cfg": False, "seed": 7, "fps": 5, "negative_prompt": "noise"},
}


def given(section: str, **settings: Any) -> list[str]:
    return [f"{section}.{name}={value}" for name, value in settings.items()]


def generate_job(*settings: str) -> GenerateJob:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(compose("generate", ["model=tiny-5b", "device=cpu", *settings]), GenerateJob)


def test_a_video_is_sampled_with_all_settings(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [*given("validation", **SAMPLED), "data.frame_buckets=[9]"]
    first, second = sampling.video_requests(edit_job(*settings).validation, ["a circle"], 2)  # type: ignore[arg-type]
    assert (first.seed, second.seed) == (7, 8)
    sampler: Any = sampling.Sampler.__new__(sampling.Sampler)
    pipeline = MagicMock(vae_scale_factor_temporal=4)
    pipeline.return_value.frames = torch.zeros(1, 5, 1)
    sampler.compute, sampler.pipeline, sampler.images = Compute(torch.device("cpu"), torch.float32), pipeline, {}
    sampler.embeds = {"a circle": torch.zeros(4, 2), "noise": torch.ones(4, 2)}
    sampler.sample_latents(second)
    called = pipeline.call_args.kwargs
    same = ("num_frames", "height", "width", "num_inference_steps", "guidance_scale")
    assert {name: called[name] for name in same} == {name: SAMPLED[name] for name in same}
    assert (called["use_dynamic_cfg"], called["generator"].initial_seed()) == (False, 8)
    assert (called["prompt_embeds"].sum(), called["negative_prompt_embeds"].sum()) == (0, 8)
    mocks = replaced(monkeypatch, sampling, "write_video", "write_json")
    sampling.save_video(Path("a.mp4"), np.zeros(1), first)
    assert mocks["write_video"].call_args.args[2] == 5


def test_the_transformer_makes_room_for_decoding_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, sampling, "CogVideoXPipeline", "CogVideoXImageToVideoPipeline")
    compute: Any = SimpleNamespace(device=torch.device("cuda"))
    transformer: Any = MagicMock(config=SimpleNamespace(in_channels=16, out_channels=16))
    for offload in (False, True):
        sampler = sampling.Sampler(transformer, MagicMock(), None, {}, compute, offload=offload)
        assert sampler.offload == offload


def test_prompts_are_those_of_validation(edit_job: MakeJob) -> None:
    clips: Any = [SimpleNamespace(row=SimpleNamespace(captions=[caption])) for caption in "abc"]

    def prompts(*settings: str) -> list[str]:
        return validation_prompts(edit_job(*settings).validation, clips)  # type: ignore[arg-type]

    assert prompts("validation.num_prompts=2") == ["a", "b"]
    assert prompts("validation.prompts='one | two'", "validation.separator='|'") == ["one", "two"]


def test_images_and_control_videos_are_those_of_validation(edit_job: MakeJob) -> None:
    job = edit_job("task=i2v", "validation.images=[a.png]")
    assert start_images(job, [], 1) == ["a.png"]
    job = edit_job("task=control", "task.condition=video", "data.control=gray", "validation.controls=[a.mp4]")
    assert [found.control for found in controls(job, build_task(job.task), [], 1)] == ["gray of a.mp4"]


def test_what_a_validation_samples(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pipeline_folder", "encode_dataset", "load_embeds", "Validator", "build_objective")
    mocks = replaced(monkeypatch, setup, *names) | replaced(monkeypatch, validation, "build_scores")
    mocks["load_embeds"].side_effect = lambda texts, keys, cache: [None] * len(texts)

    def prepared(*settings: str) -> None:
        job = edit_job("validation.prompts=[a,b]", "validation.negative_prompt=noise", *settings)
        setup.prepare_data(job, MagicMock(held_out=[], clips=[]), MagicMock(), Path("issues.csv"), ProcessGroup())

    score = "+validation.scores={mine: {target: numpy.mean, kwargs: {axis: 0}}}"
    prepared("validation.num_videos=3", "validation.offload=false", score)
    requests, embeds, _, _, offload, scores, _ = mocks["Validator"].call_args.args
    assert [request.prompt for request in requests] == ["a", "a", "a", "b", "b", "b"]
    assert (list(embeds), offload, scores) == (["noise", "a", "b"], False, mocks["build_scores"].return_value)
    settings, where, *_ = mocks["build_scores"].call_args.args
    assert (settings["mine"], where) == (Score(target="numpy.mean", kwargs={"axis": 0}), "validation.scores")
    job = edit_job("validation=none")
    data = setup.prepare_data(job, MagicMock(), MagicMock(), Path("issues.csv"), ProcessGroup())
    assert data.validator is None


def test_what_generate_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, generation, "_make")
    settings = given("generate", **SAMPLED, num_videos=2, strength="[0.5,2]", compare="true", weights="[0.25,3]")
    settings += ["generate.prompts='one | two'", "generate.separator='|'", "generate.output_dir=there"]
    job = generate_job(*settings, "generate.reshape=pad")
    used: Any = [SimpleNamespace(file=Path(name), task=None, data=None) for name in "ab"]
    generation.generate(job, used)
    _, recipe, named, _ = mocks["_make"].call_args.args
    assert (recipe.weights, recipe.strengths) == ([0.25, 3.0], [0.0, 0.5, 2.0])
    assert recipe.adapters == [Path("a"), Path("b")]
    shown = [(path.parent, request.prompt, request.seed, request.reshape) for path, request in named]
    assert shown == [(Path("there"), prompt, seed, "pad") for prompt in ("one", "two") for seed in (7, 8)]
    assert {name: getattr(named[0][1], name) for name in SAMPLED} == SAMPLED


def test_generate_finds_its_adapters_and_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, adapter, "find_adapter", "is_whole")
    mocks["is_whole"].return_value = False
    mocks["find_adapter"].side_effect = lambda path: SimpleNamespace(file=path, base=None)
    found = adapter.find_adapters(generate_job("generate.adapter=[a,b]").generate)
    assert [one.file for one in found] == [Path("a"), Path("b")]
    names = ("check_attention", "pipeline_folder", "prepare_captions", "load_embeds", "_load", "load_vae")
    mocks = replaced(monkeypatch, generation, *names, "load_scheduler", "build_scores", "TextToVideo")
    mocks["build_scores"].side_effect = ReachedError
    mocks["load_embeds"].return_value = []
    job = generate_job("+generate.scores={mine: {target: numpy.mean}}")
    with pytest.raises(ReachedError):
        generation._make(job, MagicMock(model=job.model), [], MagicMock())
    settings, where, *_ = mocks["build_scores"].call_args.args
    assert (settings["mine"], where) == (Score(target="numpy.mean"), "generate.scores")


def test_generate_has_the_shape_that_the_adapters_model_was_trained_on() -> None:
    job = generate_job("generate.dynamic_cfg=true")
    shape = {name: SAMPLED[name] for name in ("num_frames", "height", "width", "fps")}
    sampled = {name: SAMPLED[name] for name in ("num_inference_steps", "guidance_scale", "dynamic_cfg")}
    base = job.model.model_copy(update={"native": Native(**shape), "sampling": Sampling(scheduler="ddim", **sampled)})
    used: Any = [MagicMock(base=base, data=None)]
    found = adapter.with_base_model(job, used, []).generate
    expected = shape | sampled
    assert {name: getattr(found, name) for name in expected} == expected


def test_generate_replays_if_it_is_given_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, generation, "replay", "generate")
    generate_module.run(generate_job("generate.replay=a.json"), [])
    assert (mocks["replay"].call_count, mocks["generate"].call_count) == (1, 0)


def test_images_and_control_videos_of_generate_are_conditions() -> None:
    job = generate_job("generate.prompts=[a]", "generate.controls=[gray of a.mp4]")
    assert conditions_of(job, MagicMock(given="control"), [], 1) == [Given(control="gray of a.mp4")]
    job = generate_job("generate.prompts=[a]", "generate.images=[a.png]")
    assert conditions_of(job, MagicMock(given="image"), [], 1) == [Given(image="a.png")]


def test_a_task_is_the_one_of_the_settings(edit_job: MakeJob) -> None:
    job = edit_job("model=tiny-5b-i2v", "task=i2v", "task.image_scale=divide")
    assert build_task(job.task).latent_scale == "divide"
    assert type(build_task(job.task)).__name__ == "ImageToVideo"
    more = {"video": ["data.control=gray"], "mask": ["task.masks=1"]}
    for name, condition in CONDITIONS.items():
        job = edit_job("task=control", f"task.condition={name}", *more.get(name, []))
        assert build_task(job.task).kind is condition  # type: ignore[attr-defined]
    prefix = edit_job("task=control", "task.condition=prefix", "task.prefix_frames=[1,5]").task
    assert [str(recipe) for recipe in CONDITIONS["prefix"].variants(prefix)] == ["prefix count=5", "prefix count=1"]
    masked = edit_job("task=control", "task.condition=mask", "task.masks=3").task
    assert len(CONDITIONS["mask"].variants(masked)) == 3


def test_conditions_are_dropped_as_often_as_set(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition_video, "condition_latents", lambda moments, space: None)
    task, condition = edit_job("task=control", "task.condition_dropout=0.5").task, CONDITIONS["video"]
    drawn = [condition.draw({"control": None}, None, SampleRandomness(0, n), task, None) for n in range(400)]  # type: ignore[dict-item, arg-type]
    assert sum(bool(one["control_mask"]) for one in drawn) / 400 == pytest.approx(0.5, abs=0.08)


def test_the_noise_of_the_first_frame_is_that_of_the_task(edit_job: MakeJob) -> None:
    def noise(mean: float, std: float) -> list[float]:
        settings = [f"task.image_noise_mean={mean}", f"task.image_noise_std={std}"]
        task = edit_job("model=tiny-5b-i2v", "task=i2v", *settings).task
        pixels = torch.zeros(3, 64, 64)
        return [float(_with_noise(pixels, SampleRandomness(0, sample), task).std().log()) for sample in range(60)]

    assert noise(-1, 0) == pytest.approx([-1] * 60, abs=0.05)
    assert np.std(noise(-1, 0.5)) == pytest.approx(0.5, rel=0.3)
