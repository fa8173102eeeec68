"""Settings of the task, the objective, validation and `generate`."""

from benchmarks.mutants.mutant import Mutant

SETUP, CALLBACKS, RUN = "training/setup.py", "training/callbacks.py", "training/run.py"
REQUESTS, SAMPLING, MAKE = "evaluation/requests.py", "evaluation/sampling.py", "evaluation/generation.py"
VIDEO, FRAME = "tasks/condition_video.py", "tasks/first_frame.py"

MUTANTS = {
    "task.name": Mutant(
        "config/rules/jobs.py",
        'if job.task.name != "control" and job.task.name not in job.model.tasks:',
        "if False:",
        "unit/test_build.py::test_facts_of_a_checkpoint_limit_the_settings",
    ),
    "task.target": Mutant(
        "tasks/base.py",
        "get_class(settings.target)(settings)",
        'get_class("cogvx_exp.tasks.text_to_video.TextToVideo")(settings)',
        "unit/test_settings_of_videos.py::test_a_task_is_the_one_of_the_settings",
    ),
    "task.condition": Mutant(
        "tasks/control.py",
        'CONDITIONS[self.settings.condition or "first"]',
        'CONDITIONS["first"]',
        "unit/test_settings_of_videos.py::test_a_task_is_the_one_of_the_settings",
    ),
    "task.condition_dropout": Mutant(
        VIDEO,
        "(settings.condition_dropout or 0)",
        "0",
        "unit/test_settings_of_videos.py::test_conditions_are_dropped_as_often_as_set",
    ),
    "task.prefix_frames": Mutant(
        VIDEO,
        "fewest, most = settings.prefix_frames",
        "fewest, most = 5, 9",
        "unit/test_settings_of_videos.py::test_a_task_is_the_one_of_the_settings",
    ),
    "task.masks": Mutant(
        VIDEO,
        "count = settings.masks if isinstance(settings.masks, int) else 0",
        "count = 1",
        "unit/test_settings_of_videos.py::test_a_task_is_the_one_of_the_settings",
    ),
    "task.image_noise_mean": Mutant(
        FRAME,
        "math.exp(settings.image_noise_mean +",
        "math.exp(-3.0 +",
        "unit/test_settings_of_videos.py::test_the_noise_of_the_first_frame_is_that_of_the_task",
    ),
    "task.image_noise_std": Mutant(
        FRAME,
        "settings.image_noise_std * strength)",
        "0.5 * strength)",
        "unit/test_settings_of_videos.py::test_the_noise_of_the_first_frame_is_that_of_the_task",
    ),
    "task.image_scale": Mutant(
        "tasks/base.py",
        'self.settings.image_scale or "auto"',
        '"auto"',
        "unit/test_settings_of_videos.py::test_a_task_is_the_one_of_the_settings",
    ),
    "objective.timesteps": Mutant(
        "diffusion/objective.py",
        'function("timesteps")',
        "uniform",
        "unit/test_objective.py::test_each_part_of_the_objective_can_be_replaced",
    ),
    "objective.weighting": Mutant(
        "diffusion/objective.py",
        'function("weighting")',
        "unweighted",
        "unit/test_objective.py::test_each_part_of_the_objective_can_be_replaced",
    ),
    "objective.error": Mutant(
        "diffusion/objective.py",
        'function("error"))',
        "squared_error)",
        "unit/test_objective.py::test_each_part_of_the_objective_can_be_replaced",
    ),
    "validation.separator": Mutant(
        REQUESTS,
        "read_prompts(validation.prompts, validation.separator,",
        'read_prompts(validation.prompts, ":::",',
        "unit/test_settings_of_videos.py::test_prompts_are_those_of_validation",
    ),
    "validation.negative_prompt": Mutant(
        SAMPLING,
        "negative_prompt_embeds=embed[request.negative_prompt]",
        "negative_prompt_embeds=embed[texts[1]] * 0",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.seed": Mutant(
        SAMPLING,
        "seed=settings.seed + index",
        "seed=42 + index",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.num_frames": Mutant(
        SAMPLING,
        "num_frames=request.num_frames,",
        "num_frames=9,",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.height": Mutant(
        SAMPLING,
        "height=request.height,",
        "height=32,",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.width": Mutant(
        SAMPLING,
        "width=request.width,",
        "width=48,",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.fps": Mutant(
        SAMPLING,
        "write_video(path, frames, request.fps)",
        "write_video(path, frames, 8)",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.num_inference_steps": Mutant(
        SAMPLING,
        "num_inference_steps=request.num_inference_steps",
        "num_inference_steps=1",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.guidance_scale": Mutant(
        SAMPLING,
        "guidance_scale=request.guidance_scale",
        "guidance_scale=6.0",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.dynamic_cfg": Mutant(
        SAMPLING,
        "use_dynamic_cfg=request.dynamic_cfg",
        "use_dynamic_cfg=True",
        "unit/test_settings_of_videos.py::test_a_video_is_sampled_with_all_settings",
    ),
    "validation.scores.target": Mutant(
        "evaluation/validation.py",
        'build_scores(scores_of(job), "validation.scores"',
        'build_scores({}, "validation.scores"',
        "unit/test_settings_of_videos.py::test_what_a_validation_samples",
    ),
    "validation.scores.kwargs": Mutant(
        "evaluation/scores/base.py",
        "partial(function, **settings.kwargs)",
        "partial(function)",
        "unit/test_scores.py::test_a_score_gets_the_frames_and_its_arguments",
    ),
    "validation.scores.enabled": Mutant(
        "evaluation/scores/base.py",
        "if score.enabled is False:",
        "if False:",
        "unit/test_video_scores.py::test_what_is_absent_is_left_out_or_refused",
    ),
    "validation.scores.better": Mutant(
        "runs/best.py",
        'Best(by, better == "higher")',
        "Best(by, False)",
        "unit/test_best.py::test_what_is_better_comes_from_the_settings",
    ),
    "validation.scores.package": Mutant(
        "config/rules/scores.py",
        "if score.package is None or find_spec(score.package) is not None:",
        "if True:",
        "unit/test_video_scores.py::test_without_opencv_two_are_left_out_with_a_note",
    ),
    "validation.loss_every": Mutant(
        CALLBACKS,
        "Callback(self.measure, validation.loss_every)",
        "Callback(self.measure, None)",
        "unit/test_settings_of_training.py::test_callbacks_come_as_often_as_the_job_says",
    ),
    "validation.loss_timesteps": Mutant(
        SETUP,
        "fixed_timesteps(job.validation.loss_timesteps,",
        "fixed_timesteps(10,",
        "unit/test_settings_of_training.py::test_the_held_out_loss_has_the_timesteps_of_the_job",
    ),
    "validation.prompts": Mutant(
        REQUESTS,
        "if validation.prompts is None:",
        "if True:",
        "unit/test_settings_of_videos.py::test_prompts_are_those_of_validation",
    ),
    "validation.name": Mutant(
        SETUP,
        "job.validation if isinstance(job.validation, Validation) else None\n    # Held",
        "None\n    # Held",
        "unit/test_settings_of_videos.py::test_what_a_validation_samples",
    ),
    "validation.num_prompts": Mutant(
        REQUESTS,
        "clips[: validation.num_prompts]",
        "clips[:1]",
        "unit/test_settings_of_videos.py::test_prompts_are_those_of_validation",
    ),
    "validation.num_videos": Mutant(
        SETUP,
        "prompts, validation.num_videos, given",
        "prompts, 1, given",
        "unit/test_settings_of_videos.py::test_what_a_validation_samples",
    ),
    "validation.every": Mutant(
        CALLBACKS,
        "if epochs else validation.every",
        "if epochs else None",
        "unit/test_settings_of_training.py::test_callbacks_come_as_often_as_the_job_says",
    ),
    "validation.every_epochs": Mutant(
        CALLBACKS,
        "epochs = validation.every_epochs",
        "epochs = None",
        "unit/test_settings_of_training.py::test_callbacks_come_as_often_as_the_job_says",
    ),
    "validation.images": Mutant(
        REQUESTS,
        "    if validation.images is not None:",
        "    if False:",
        "unit/test_settings_of_videos.py::test_images_and_control_videos_are_those_of_validation",
    ),
    "validation.controls": Mutant(
        REQUESTS,
        "    if validation.controls is not None:",
        "    if False:",
        "unit/test_settings_of_videos.py::test_images_and_control_videos_are_those_of_validation",
    ),
    "validation.baseline": Mutant(
        RUN,
        "and job.validation.baseline:",
        "and True:",
        "unit/test_settings_of_training.py::test_a_run_begins_with_its_settings[False]",
    ),
    "validation.offload": Mutant(
        SAMPLING,
        'self.offload = offload and compute.device.type == "cuda"',
        "self.offload = False",
        "unit/test_settings_of_videos.py::test_the_transformer_makes_room_for_decoding_if_asked_to",
    ),
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
for name in ("kwargs", "enabled", "better", "package"):
    MUTANTS[f"generate.scores.{name}"] = MUTANTS[f"validation.scores.{name}"]
# Sampling settings of `generate` are read by the same code.
for name in ("negative_prompt", "seed", "num_frames", "height", "width", "fps", "num_inference_steps", "guidance_scale", "dynamic_cfg"):  # fmt: skip
    MUTANTS[f"generate.{name}"] = MUTANTS[f"validation.{name}"]
