"""Settings of `generate`."""

from benchmarks.mutants import validation
from benchmarks.mutants.mutant import Mutant

REQUESTS, MAKE = "evaluation/requests.py", "evaluation/generation.py"

MUTANTS = {
    "generate.prompts": Mutant(
        MAKE,
        "read_prompts(settings.prompts, settings.separator,",
        'read_prompts(["a"], settings.separator,',
        "unit/test_settings_of_videos.py::test_what_generate_samples",
    ),
    "generate.separator": Mutant(
        MAKE,
        "settings.prompts, settings.separator,",
        'settings.prompts, ":::",',
        "unit/test_settings_of_videos.py::test_what_generate_samples",
    ),
    "generate.images": Mutant(
        REQUESTS,
        '(("images", settings.images),',
        '(("images", None),',
        "unit/test_settings_of_videos.py::test_images_and_control_videos_of_generate_are_conditions",
    ),
    "generate.controls": Mutant(
        REQUESTS,
        '("controls", settings.controls))',
        '("controls", None))',
        "unit/test_settings_of_videos.py::test_images_and_control_videos_of_generate_are_conditions",
    ),
    "generate.reshape": Mutant(
        MAKE,
        "conditions, settings.reshape)",
        'conditions, "center")',
        "unit/test_settings_of_videos.py::test_what_generate_samples",
    ),
    "generate.num_videos": Mutant(
        MAKE,
        "prompts, settings.num_videos, conditions",
        "prompts, 1, conditions",
        "unit/test_settings_of_videos.py::test_what_generate_samples",
    ),
    "generate.adapter": Mutant(
        "evaluation/adapter.py",
        "paths = generate.adapter if isinstance(generate.adapter, list) else [generate.adapter] if generate.adapter else []",
        "paths = []",
        "unit/test_settings_of_videos.py::test_generate_finds_its_adapters_and_scores",
    ),
    "generate.weights": Mutant(
        MAKE, "settings.weights or [1.0]", "[1.0]", "unit/test_settings_of_videos.py::test_what_generate_samples"
    ),
    "generate.strength": Mutant(
        MAKE, "+ list(strengths)", "+ [1.0]", "unit/test_settings_of_videos.py::test_what_generate_samples"
    ),
    "generate.compare": Mutant(
        MAKE, "([0.0] if settings.compare else [])", "[]", "unit/test_settings_of_videos.py::test_what_generate_samples"
    ),
    "generate.replay": Mutant(
        "generate.py",
        "if job.generate.replay:",
        "if False:",
        "unit/test_settings_of_videos.py::test_generate_replays_if_it_is_given_a_file",
    ),
    "generate.output_dir": Mutant(
        MAKE,
        "(settings.output_dir / file_name",
        '(Path("outputs/generated") / file_name',
        "unit/test_settings_of_videos.py::test_what_generate_samples",
    ),
    "generate.scores.target": Mutant(
        MAKE,
        "build_scores(job.generate.scores,",
        "build_scores({},",
        "unit/test_settings_of_videos.py::test_generate_finds_its_adapters_and_scores",
    ),
}
# Scores and sampling settings of `generate` are read by the same code.
for name in ("negative_prompt", "seed", "num_frames", "height", "width", "fps", "num_inference_steps", "guidance_scale", "dynamic_cfg"):  # fmt: skip
    MUTANTS[f"generate.{name}"] = validation.MUTANTS[f"validation.{name}"]
for name in ("kwargs", "enabled", "better", "package"):
    MUTANTS[f"generate.scores.{name}"] = validation.MUTANTS[f"validation.scores.{name}"]
