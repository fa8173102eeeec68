"""Samples videos from a base model with adapters, and reproduces earlier videos."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.renames import renamed_config
from cogvx_exp.config.rules.prompts import read_prompts
from cogvx_exp.config.rules.scores import scores_note
from cogvx_exp.config.schema import GenerateJob, Model
from cogvx_exp.config.schema import Task as TaskSettings
from cogvx_exp.console.progress import console, progress
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json
from cogvx_exp.evaluation.adapter import Adapter, find_adapter
from cogvx_exp.evaluation.grid import side_by_side
from cogvx_exp.evaluation.requests import conditions_of
from cogvx_exp.evaluation.sampling import (
    Sampler,
    VideoRequest,
    control_of,
    file_name,
    image_of,
    save_video,
    video_requests,
)
from cogvx_exp.evaluation.scores.base import build_scores, score_video
from cogvx_exp.evaluation.scores.video import absent_inputs, scored_video
from cogvx_exp.latents.captions import load_embeds, prepare_captions
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.model.attention.backends import check_attention, set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute, choose_compute
from cogvx_exp.model.load import (
    load_scheduler,
    load_trained,
    load_transformer,
    load_vae,
    load_whole,
    pipeline_folder,
)
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.pipeline_files import check_same_architecture
from cogvx_exp.model.widening import set_patch_strength
from cogvx_exp.runs.run_folder import is_whole
from cogvx_exp.tasks.base import Task, build_task
from cogvx_exp.tasks.image_to_video import ImageToVideo
from cogvx_exp.tasks.text_to_video import TextToVideo


@dataclass(frozen=True)
class Recipe:
    """What determines a video apart from the request; stored next to it."""

    model: Model
    adapters: list[Path]
    weights: list[float]
    """Weight of each adapter."""
    strengths: list[float]
    """Several are shown side by side."""

    def about(self) -> dict[str, Any]:
        """The recipe as JSON."""
        trained = [
            {"file": str(file), "weight": weight} for file, weight in zip(self.adapters, self.weights, strict=True)
        ]
        return {"adapters": trained, "strengths": self.strengths, "model": self.model.model_dump(mode="json")}


def generate(job: GenerateJob, adapters: list[Adapter]) -> list[Path]:
    """Writes a video and its settings for each prompt and seed; returns the paths.

    Raises:
        UserError: for problems that only the user can fix.
    """
    settings = job.generate
    if note := scores_note(settings.scores):
        console.warn(f"Note: {note}")
    prompts = read_prompts(settings.prompts, settings.separator, "generate.prompts")
    task = task_of(job.model, adapters)
    conditions = conditions_of(job, task, adapters, len(prompts))
    strengths = settings.strength if isinstance(settings.strength, list) else [settings.strength]
    recipe = Recipe(
        job.model,
        [adapter.file for adapter in adapters],
        settings.weights or [1.0] * len(adapters),
        ([0.0] if settings.compare else []) + list(strengths),
    )
    requests = video_requests(settings, prompts, settings.num_videos, conditions, settings.reshape)
    named = [
        (settings.output_dir / file_name(index, request.prompt), request) for index, request in enumerate(requests)
    ]
    return _make(job, recipe, named, task)


def replay(job: GenerateJob) -> list[Path]:
    """Reproduces the video whose settings are in `generate.replay`, in `generate.output_dir`.

    Raises:
        UserError: the file does not contain a video's settings, or its weights were not kept.
    """
    file = job.generate.replay
    assert file is not None
    try:
        older = {"reshape": "resize", "control": None, "control_times": None}  # what older versions do not write
        kept = {**older, **read_json(file)}
        kept["control_times"] = kept["control_times"] and tuple(kept["control_times"])
        request = VideoRequest(**{item.name: kept[item.name] for item in fields(VideoRequest)})
        recipe = Recipe(
            Model.model_validate(renamed_config(kept["model"], "model")),
            [Path(trained["file"]) for trained in kept["adapters"]],
            [trained["weight"] for trained in kept["adapters"]],
            kept["strengths"],
        )
    except FileNotFoundError:
        raise UserError(f"generate.replay={file} does not exist; give the .json next to a video") from None
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"generate.replay={file} is incomplete; videos sampled during training cannot be reproduced, since their "
            "weights are not kept"
        ) from None
    missing = [str(path) for path in recipe.adapters if not path.exists()]
    if missing:
        raise UserError(f"generate.replay={file}: {', '.join(missing)} no longer exists")
    named = [(job.generate.output_dir / file.with_suffix(".mp4").name, request)]
    return _make(job, recipe, named, task_of(recipe.model, [find_adapter(path) for path in recipe.adapters]))


def _make(job: GenerateJob, recipe: Recipe, named: list[tuple[Path, VideoRequest]], task: Task) -> list[Path]:
    # Read first: reports unreadable files before anything is loaded.
    of_images = {request.image: image_of(request) for _, request in named if request.image}
    images = {request: of_images[request.image] for _, request in named if request.image}
    controls = {request: control_of(request) for _, request in named if request.control}
    absent = absent_inputs([request for _, request in named], "the training clips, which only validation has")
    scores, lines = build_scores(job.generate.scores, "generate.scores", absent), []
    compute = choose_compute(job.device, recipe.model)
    check_attention(job.attention, compute)
    pipeline = pipeline_folder(recipe.model, job.cache_dir)
    if not controls and task.in_channels(recipe.model.transformer.model_dump()) == recipe.model.transformer.in_channels:
        task.check_model(pipeline)
    # Embeddings come from the cache of training: prompts that were encoded once do not load T5 again.
    context = PipelineContext(pipeline, compute, job.memory, job.cache_dir, task)
    texts = sorted({text for _, request in named for text in (request.prompt, request.negative_prompt)})
    keys = prepare_captions(texts, context)
    embeds = dict(zip(texts, load_embeds(texts, keys, context.cache), strict=True))
    transformer = _load(recipe, pipeline, compute, job, controlled=bool(controls))
    vae = load_vae(pipeline, compute, job.memory)
    scheduler = load_scheduler(pipeline, recipe.model.sampling.scheduler)
    sampler = Sampler(
        transformer, vae, scheduler, embeds, compute, images=images, controls=controls, controlled=bool(controls)
    )
    for path, request in progress("Sampling", named):
        videos = _sample(sampler, request, recipe)
        values = [score_video(scores, scored_video(video, request, images, controls)) for video in videos]
        save_video(
            path,
            _joined(videos, recipe, sampler.controls.get(request)),
            request,
            **({"scores": values} if scores else {}),
            **recipe.about(),
        )
        lines.append((path, _in_words(values)))
    for path, words in lines:
        console.result(f"  {path}")
        if words:
            console.print(f"    {words}", soft_wrap=True)  # not with --quiet: scripts read the paths
    return [path for path, _ in named]


def task_of(model: Model, adapters: list[Adapter]) -> Task:
    """The task of the adapters or, if it is not known, of their model."""
    trained = next((adapter.task for adapter in adapters if adapter.task and adapter.task.target), None)
    if trained:
        return build_task(trained)
    if "i2v" in model.tasks:
        return ImageToVideo(TaskSettings(name="i2v"))
    return TextToVideo(TaskSettings(name="t2v"))


def _load(
    recipe: Recipe, pipeline: Path, compute: Compute, job: GenerateJob, *, controlled: bool
) -> CogVideoXTransformer3DModel:
    folder = next((file for file in recipe.adapters if file.is_dir()), None)
    if folder:  # a full transformer needs no base
        check_same_architecture(folder, read_json(pipeline / "transformer" / "config.json"))
        transformer = load_whole(folder, compute)
    else:
        transformer = load_transformer(pipeline, compute, blocks_on_host=job.memory.stream_blocks)
        for number, file in enumerate(recipe.adapters):
            transformer = load_trained(transformer, file, compute, _name(number), must_change=True)
    if any(is_whole(file) for file in recipe.adapters) and recipe.strengths != [1.0]:
        raise UserError("generate.strength and generate.compare need an adapter; this is a full transformer")
    if controlled and transformer.config.in_channels == transformer.config.out_channels:
        raise UserError(
            f"generate.controls: model={recipe.model.name} takes no control videos without an adapter that was trained "
            "with task=control"
        )
    apply_memory_options(transformer, job.memory, compute.device)
    set_attention(transformer, job.attention)
    if job.compile:
        compile_blocks(transformer, None, job.cache_dir)
    return transformer.eval()


def _sample(sampler: Sampler, request: VideoRequest, recipe: Recipe) -> list[np.ndarray]:
    """A video per strength."""
    videos = []
    for strength in recipe.strengths:
        if recipe.adapters and not is_whole(recipe.adapters[0]):
            names = [_name(number) for number in range(len(recipe.adapters))]
            # Set for each video: scales are kept in the layers, and the last one would stay.
            sampler.pipeline.transformer.set_adapters(names, [strength * weight for weight in recipe.weights])
            set_patch_strength(sampler.pipeline.transformer, strength)
        videos.append(sampler.sample(request))
    return videos


def _joined(videos: list[np.ndarray], recipe: Recipe, control: np.ndarray | None) -> np.ndarray:
    """The only video, or one per strength side by side, after the condition if there is one."""
    if len(videos) == 1:
        return videos[0]
    labels = ["base" if strength == 0 else f"x {strength:g}" for strength in recipe.strengths]
    if control is not None:
        videos, labels = [control, *videos], ["condition", *labels]
    return side_by_side(videos, labels)


def _in_words(values: list[dict[str, float]]) -> str:
    """The scores of a video; of several strengths, in their order."""
    names = dict.fromkeys(name for scores in values for name in scores)
    numbers = {name: [f"{scores[name]:.4g}" if name in scores else "-" for scores in values] for name in names}
    return ", ".join(f"{name} {' | '.join(texts)}" for name, texts in numbers.items())


def _name(number: int) -> str:
    return f"trained{number}"
