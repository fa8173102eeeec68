"""Samples videos from a base model with an adapter on it."""

from pathlib import Path

from cogvx_exp.config.schema import GenerateJob
from cogvx_exp.data.prepare import Encoder, load_embeds, prepare_captions
from cogvx_exp.evaluation.adapter import Adapter
from cogvx_exp.evaluation.sampling import Sampler, file_name, save_video, split_prompts, video_requests
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_scheduler, load_trained, load_transformer, load_vae, pipeline_folder
from cogvx_exp.tracking.progress import console, progress


def generate(job: GenerateJob, adapter: Adapter | None) -> list[Path]:
    """Writes one video, with its settings beside it, for each prompt; returns their paths.

    Raises:
        UserError: anything only the user can mend.
    """
    settings = job.generate
    prompts = split_prompts(settings.prompts, settings.separator)
    compute = choose_compute(job.device, job.model)
    pipeline = pipeline_folder(job.model, job.cache_dir)
    encoder = Encoder(pipeline, compute, job.memory, job.cache_dir)
    texts = [settings.negative_prompt, *prompts]
    keys = prepare_captions(texts, encoder)
    embeds = dict(zip(texts, load_embeds(texts, keys, encoder.cache), strict=True))
    transformer = load_transformer(pipeline, compute, job.model.tasks[0])
    if adapter:
        transformer = load_trained(transformer, adapter.file, compute)
        if not adapter.file.is_dir():
            transformer.set_adapters(["trained"], [settings.strength])
    transformer.eval()
    vae = load_vae(pipeline, compute, job.memory)
    sampler = Sampler(transformer, vae, load_scheduler(pipeline, job.model.sampling.scheduler), embeds, compute)
    about = {
        "model": job.model.name,
        "adapter": str(adapter.file) if adapter else None,
        "strength": settings.strength if adapter else None,
    }
    paths = []
    for index, request in enumerate(progress("Sampling", video_requests(settings, prompts))):
        path = settings.output_dir / file_name(index, request.prompt)
        save_video(path, sampler.sample(request), request, **about)
        paths.append(path)
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)
    return paths
