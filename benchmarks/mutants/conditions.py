"""Settings of the task, the objective, validation and `generate`."""

from benchmarks.mutants.mutant import Mutant

SETUP, CALLBACKS, RUN = "training/setup.py", "training/callbacks.py", "training/run.py"
REQUESTS, SAMPLING, MAKE = "evaluation/requests.py", "evaluation/sampling.py", "evaluation/generation.py"
VIDEO, FRAME = "tasks/condition_video.py", "tasks/first_frame.py"
GENERATE = "integration/test_generate_and_publish.py"

MUTANTS = {
    "task.name": Mutant("config/rules/jobs.py", 'if job.task.name != "control" and job.task.name not in job.model.tasks:', "if False:", "integration/test_combinations.py"),
    "task.target": Mutant("tasks/base.py", "get_class(settings.target)(settings)", 'get_class("cogvx_exp.tasks.text_to_video.TextToVideo")(settings)', "integration/test_docs.py"),
    "task.condition": Mutant("tasks/control.py", 'CONDITIONS[self.settings.condition or "first"]', 'CONDITIONS["first"]', "integration/test_control.py"),
    "task.condition_dropout": Mutant(VIDEO, "(settings.condition_dropout or 0)", "0", "integration/test_control.py"),
    "task.prefix_frames": Mutant(VIDEO, "fewest, most = settings.prefix_frames", "fewest, most = 5, 9", "integration/test_control.py"),
    "task.masks": Mutant(VIDEO, "count = settings.masks if isinstance(settings.masks, int) else 0", "count = 1", "integration/test_control.py"),
    "task.image_noise_mean": Mutant(FRAME, "math.exp(settings.image_noise_mean +", "math.exp(-3.0 +", "integration/test_parity.py"),
    "task.image_noise_std": Mutant(FRAME, "settings.image_noise_std * strength)", "0.5 * strength)", "integration/test_parity.py"),
    "task.image_scale": Mutant("tasks/base.py", 'self.settings.image_scale or "auto"', '"auto"', "integration/test_tasks.py"),
    "objective.timesteps": Mutant("diffusion/objective.py", 'function("timesteps")', "uniform", "unit/test_objective.py"),
    "objective.weighting": Mutant("diffusion/objective.py", 'function("weighting")', "unweighted", "unit/test_objective.py"),
    "objective.error": Mutant("diffusion/objective.py", 'function("error"))', "squared_error)", "unit/test_objective.py"),
    "validation.separator": Mutant(REQUESTS, "read_prompts(validation.prompts, validation.separator,", 'read_prompts(validation.prompts, ":::",', "unit/test_text_from_users.py"),
    "validation.negative_prompt": Mutant(SAMPLING, "negative_prompt_embeds=embed[request.negative_prompt]", "negative_prompt_embeds=embed[texts[1]] * 0", GENERATE),
    "validation.seed": Mutant(SAMPLING, "seed=settings.seed + index", "seed=42 + index", GENERATE),
    "validation.num_frames": Mutant(SAMPLING, "num_frames=request.num_frames,", "num_frames=9,", GENERATE),
    "validation.height": Mutant(SAMPLING, "height=request.height,", "height=32,", "integration/test_matrix.py"),
    "validation.width": Mutant(SAMPLING, "width=request.width,", "width=48,", "integration/test_matrix.py"),
    "validation.fps": Mutant(SAMPLING, "write_video(path, frames, request.fps)", "write_video(path, frames, 8)", GENERATE),
    "validation.num_inference_steps": Mutant(SAMPLING, "num_inference_steps=request.num_inference_steps", "num_inference_steps=1", GENERATE),
    "validation.guidance_scale": Mutant(SAMPLING, "guidance_scale=request.guidance_scale", "guidance_scale=6.0", GENERATE),
    "validation.dynamic_cfg": Mutant(SAMPLING, "use_dynamic_cfg=request.dynamic_cfg", "use_dynamic_cfg=True", GENERATE),
    "validation.scores.target": Mutant(SETUP, "build_scores(validation.scores,", "build_scores({},", "integration/test_processes.py"),
    "validation.scores.kwargs": Mutant("config/imported.py", "partial(found, **settings.kwargs)", "partial(found)", "unit/test_scores.py"),
    "validation.loss_every": Mutant(CALLBACKS, "Callback(self.measure, validation.loss_every)", "Callback(self.measure, None)", "integration/test_main_job.py"),
    "validation.loss_timesteps": Mutant(SETUP, "fixed_timesteps(job.validation.loss_timesteps,", "fixed_timesteps(10,", "integration/test_prepare.py"),
    "validation.prompts": Mutant(REQUESTS, "if validation.prompts is None:", "if True:", "integration/test_main_job.py"),
    "validation.name": Mutant(SETUP, "job.validation if isinstance(job.validation, Validation) else None\n    # Held", "None\n    # Held", "integration/test_main_job.py"),
    "validation.num_prompts": Mutant(REQUESTS, "clips[: validation.num_prompts]", "clips[:1]", "integration/test_main_job.py"),
    "validation.num_videos": Mutant(SETUP, "prompts, validation.num_videos, given", "prompts, 1, given", "integration/test_processes.py"),
    "validation.every": Mutant(CALLBACKS, "if epochs else validation.every", "if epochs else None", "integration/test_trackers.py"),
    "validation.every_epochs": Mutant(CALLBACKS, "epochs = validation.every_epochs", "epochs = None", "integration/test_main_job.py"),
    "validation.images": Mutant(REQUESTS, "    if validation.images is not None:", "    if False:", "unit/test_start_images.py"),
    "validation.controls": Mutant(REQUESTS, "    if validation.controls is not None:", "    if False:", "integration/test_control_runs.py"),
    "validation.baseline": Mutant(RUN, "and job.validation.baseline:", "and True:", "integration/test_optimizers.py"),
    "validation.offload": Mutant(SAMPLING, 'self.offload = offload and compute.device.type == "cuda"', "self.offload = False", "integration/test_cuda_memory.py"),
    "generate.prompts": Mutant(MAKE, "read_prompts(settings.prompts, settings.separator,", 'read_prompts(["a"], settings.separator,', GENERATE),
    "generate.separator": Mutant(MAKE, "settings.prompts, settings.separator,", 'settings.prompts, ":::",', GENERATE),
    "generate.images": Mutant(REQUESTS, '(("images", settings.images),', '(("images", None),', "unit/test_start_images.py"),
    "generate.controls": Mutant(REQUESTS, '("controls", settings.controls))', '("controls", None))', "integration/test_control_runs.py"),
    "generate.reshape": Mutant(MAKE, "conditions, settings.reshape)", 'conditions, "center")', "unit/test_start_images.py"),
    "generate.num_videos": Mutant(MAKE, "prompts, settings.num_videos, conditions", "prompts, 1, conditions", GENERATE),
    "generate.adapter": Mutant("evaluation/adapter.py", "paths = generate.adapter if isinstance(generate.adapter, list) else [generate.adapter] if generate.adapter else []", "paths = []", GENERATE),
    "generate.weights": Mutant(MAKE, "settings.weights or [1.0]", "[1.0]", "integration/test_adapter_sources.py"),
    "generate.strength": Mutant(MAKE, "+ list(strengths)", "+ [1.0]", GENERATE),
    "generate.compare": Mutant(MAKE, "([0.0] if settings.compare else [])", "[]", GENERATE),
    "generate.replay": Mutant("generate.py", "if job.generate.replay:", "if False:", GENERATE),
    "generate.output_dir": Mutant(MAKE, "(settings.output_dir / file_name", '(Path("outputs/generated") / file_name', GENERATE),
    "generate.scores.target": Mutant(MAKE, "build_scores(job.generate.scores,", "build_scores({},", GENERATE),
}
MUTANTS["generate.scores.kwargs"] = MUTANTS["validation.scores.kwargs"]
# Sampling settings of `generate` are read by the same code.
for name in ("negative_prompt", "seed", "num_frames", "height", "width", "fps", "num_inference_steps", "guidance_scale", "dynamic_cfg"):  # fmt: skip
    MUTANTS[f"generate.{name}"] = MUTANTS[f"validation.{name}"]
