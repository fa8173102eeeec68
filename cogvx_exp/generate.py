"""`python -m cogvx_exp.generate`: sample videos from a base model, with or without trained adapters."""

import sys

from cogvx_exp.config.command_line.entry_point import EntryPoint
from cogvx_exp.config.issues import ConfigError
from cogvx_exp.config.rules.jobs import check_generate
from cogvx_exp.config.schema import GenerateJob
from cogvx_exp.data.start_image import listed_images
from cogvx_exp.evaluation.adapter import find_adapters, with_base_model


def run(job: GenerateJob, overrides: list[str]) -> None:
    """Samples every prompt and writes an mp4 with its settings next to it."""
    from cogvx_exp.console.quiet import quiet_libraries

    if job.generate.replay:
        quiet_libraries()
        from cogvx_exp.evaluation.generation import replay

        replay(job)
        return
    adapters = find_adapters(job.generate)
    job = with_base_model(job, adapters, overrides)
    issues = check_generate(job)  # the model is only known now
    if issues:
        raise ConfigError(issues)
    if job.generate.images and (adapters or "i2v" in job.model.tasks):
        listed_images(job.generate.images, job.generate.separator, "generate.images").check()
    quiet_libraries()
    from cogvx_exp.evaluation.generation import generate

    generate(job, adapters)


main = EntryPoint("generate", GenerateJob, run)

if __name__ == "__main__":
    sys.exit(main())
