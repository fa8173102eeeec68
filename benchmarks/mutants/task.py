"""Settings of the task and the objective."""

from benchmarks.mutants.mutant import Mutant

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
}
