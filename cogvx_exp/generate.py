"""`python -m cogvx_exp.generate`: sample videos from a base model, with or without a trained adapter."""

import sys

from cogvx_exp.config.cli import EntryPoint
from cogvx_exp.config.faults import ConfigError
from cogvx_exp.config.rules import check_generate
from cogvx_exp.config.schema import GenerateJob
from cogvx_exp.evaluation.adapter import find_adapter, with_base_model


def run(job: GenerateJob, overrides: list[str]) -> None:
    """Samples every prompt and writes an mp4 with its settings beside it."""
    from cogvx_exp.quiet import quiet_libraries

    adapter = find_adapter(job.generate.adapter) if job.generate.adapter else None
    if adapter:
        job = with_base_model(job, adapter, overrides)
    faults = check_generate(job)  # only now the model is known
    if faults:
        raise ConfigError(faults)
    quiet_libraries()
    from cogvx_exp.evaluation.generation import generate

    generate(job, adapter)


main = EntryPoint("generate", GenerateJob, run)

if __name__ == "__main__":
    sys.exit(main())
