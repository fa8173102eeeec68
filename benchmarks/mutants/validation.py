"""Settings of validation."""

from benchmarks.mutants.mutant import Mutant

SETUP, CALLBACKS, RUN = "training/setup.py", "training/callbacks.py", "training/run.py"
REQUESTS, SAMPLING = "evaluation/requests.py", "evaluation/sampling.py"

MUTANTS = {
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
}
