"""Facts about a checkpoint (`conf/model/*.yaml`)."""

from pydantic import BaseModel

from benchmarks.mutants.mutant import Mutant
from cogvx_exp.config.schema import (
    SchedulerArchitecture,
    TextEncoderArchitecture,
    TransformerArchitecture,
    VaeArchitecture,
)
from cogvx_exp.config.schema.model import Native, RandomTextEncoder

BUILD, RULES, SOURCE = "model/build.py", "config/rules/jobs.py", "model/source.py"
FAKE, FAKE_ENCODER = "estimate/trace/fake_models.py", "**architecture.model_dump(), feed"
ADAPTER, SAMPLED = (
    "evaluation/adapter.py",
    "unit/test_settings_of_videos.py::test_generate_has_the_shape_that_the_adapters_model_was_trained_on",
)
LOADED = "unit/test_build.py::test_weights_come_from_where_the_settings_say"
BUILT, CONFIG = "unit/test_build.py", "unit/test_build.py::test_facts_of_a_checkpoint_limit_the_settings"
PARTS: dict[str, tuple[type[BaseModel], str]] = {
    "transformer": (TransformerArchitecture, "**model.transformer.model_dump()"),
    "vae": (VaeArchitecture, "**architecture.model_dump(),"),
    "text_encoder": (TextEncoderArchitecture, "**model.text_encoder.model_dump(),"),
    "random_text_encoder": (RandomTextEncoder, "**model.random_text_encoder.model_dump()}"),
    "scheduler": (SchedulerArchitecture, "**model.scheduler.model_dump(),"),
}

MUTANTS = (
    {
        f"model.{part}.{name}": Mutant(BUILD, before, before.replace("dump()", f'dump(exclude={{"{name}"}})'), BUILT)
        for part, (schema, before) in PARTS.items()
        for name in schema.model_fields
    }
    | {  # of random weights, those of random_text_encoder
        f"model.text_encoder.{name}": Mutant(
            FAKE, FAKE_ENCODER, FAKE_ENCODER.replace("dump()", f'dump(exclude={{"{name}"}})'), BUILT
        )
        for name in RandomTextEncoder.model_fields
    }
    | {
        "model.path": Mutant(
            SOURCE,
            "fetch(model.path, model.revision,",
            'fetch("THUDM/CogVideoX-5b", model.revision,',
            LOADED,
        ),
        "model.revision": Mutant(SOURCE, "fetch(model.path, model.revision,", "fetch(model.path, None,", LOADED),
        "model.weights": Mutant("model/load.py", 'if model.weights == "pretrained":', "if False:", LOADED),
        "model.random_seed": Mutant(BUILD, "torch.manual_seed(model.random_seed)", "torch.manual_seed(0)", BUILT),
        "model.dtype": Mutant(
            "model/device.py",
            'model.native_dtype if model.dtype == "auto" else model.dtype',
            "model.native_dtype",
            "unit/test_settings_of_training.py::test_device_and_dtype_are_those_of_the_job",
        ),
        "model.native_dtype": Mutant(BUILD, "getattr(torch, model.native_dtype)", "torch.bfloat16", BUILT),
        "model.tasks": Mutant(RULES, "and job.task.name not in job.model.tasks:", "and False:", CONFIG),
        "model.frame_step": Mutant(
            RULES, "step, most = model.frame_step, model.max_num_frames", "step, most = 4, model.max_num_frames", CONFIG
        ),
        "model.max_num_frames": Mutant(
            RULES, "step, most = model.frame_step, model.max_num_frames", "step, most = model.frame_step, 10**6", CONFIG
        ),
        "model.size_multiple": Mutant(RULES, "multiple = model.size_multiple", "multiple = 1", CONFIG),
        "model.sampling.scheduler": Mutant(BUILD, "SCHEDULERS[model.sampling.scheduler](", 'SCHEDULERS["dpm"](', BUILT),
    }
    | {
        f"model.native.{name}": Mutant(
            ADAPTER, "base.native.model_dump() |", f'base.native.model_dump(exclude={{"{name}"}}) |', SAMPLED
        )
        for name in Native.model_fields
    }
    | {
        f"model.sampling.{name}": Mutant(
            ADAPTER, 'exclude={"scheduler"}', f'exclude={{"scheduler", "{name}"}}', SAMPLED
        )
        for name in ("num_inference_steps", "guidance_scale", "dynamic_cfg")
    }
)
