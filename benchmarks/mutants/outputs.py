"""Settings of trackers, checkpoints, publishing, sweeps and profiles."""

from benchmarks.mutants.mutant import Mutant

TRACKERS, SAVER, PUBLISH, GPUS = (
    "tracking/trackers.py",
    "training/checkpoint/saver.py",
    "tracking/publish.py",
    "sweep/gpus.py",
)
TRACKIO = "tracking/trackio_tracker.py"

MUTANTS = {
    "tracker.wandb.project": Mutant(
        TRACKERS,
        "project=settings.project",
        'project="cogvx-exp"',
        "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings",
    ),
    "tracker.wandb.entity": Mutant(
        TRACKERS,
        "entity=settings.entity",
        "entity=None",
        "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings",
    ),
    "tracker.wandb.group": Mutant(
        TRACKERS,
        "group_of(folder, settings.group)",
        "group_of(folder, None)",
        "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings",
    ),
    "tracker.wandb.tags": Mutant(
        TRACKERS, "tags=settings.tags", "tags=[]", "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings"
    ),
    "tracker.wandb.mode": Mutant(
        TRACKERS,
        "mode=settings.mode",
        'mode="disabled"',
        "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings",
    ),
    "tracker.wandb.videos": Mutant(
        TRACKERS,
        "self._wandb, self._videos = wandb, settings.videos",
        "self._wandb, self._videos = wandb, True",
        "unit/test_settings_of_outputs.py::test_wandb_gets_its_settings",
    ),
    "tracker.trackio.project": Mutant(
        TRACKIO, "project=settings.project", 'project="cogvx-exp"', "unit/test_trackio.py::test_settings_reach_trackio"
    ),
    "tracker.trackio.group": Mutant(
        TRACKIO,
        "group_of(folder, settings.group)",
        "group_of(folder, None)",
        "unit/test_trackio.py::test_settings_reach_trackio",
    ),
    "tracker.trackio.space": Mutant(
        TRACKIO, "space_id=settings.space", "space_id=None", "unit/test_trackio.py::test_settings_reach_trackio"
    ),
    "tracker.trackio.videos": Mutant(
        TRACKIO, "if self._videos and", "if", "unit/test_trackio.py::test_settings_reach_trackio"
    ),
    "tracker.tensorboard.videos": Mutant(
        TRACKERS,
        "        self._videos = settings.videos\n",
        "        self._videos = True\n",
        "unit/test_settings_of_outputs.py::test_tensorboard_has_videos_if_asked_for",
    ),
    "tracker.custom.target": Mutant(
        TRACKERS,
        "for name, custom in settings.custom.items()",
        "for name, custom in ()",
        "unit/test_scores.py::test_a_tracker_of_your_own_gets_everything",
    ),
    "tracker.custom.kwargs": Mutant(
        "config/imported.py",
        "return partial(function, **settings.kwargs)",
        "return partial(function)",
        "unit/test_scores.py::test_a_tracker_of_your_own_gets_everything",
    ),
    "checkpoint.every": Mutant(
        "training/callbacks.py",
        "Callback(self.save, job.checkpoint.every)",
        "Callback(self.save, None)",
        "unit/test_settings_of_training.py::test_callbacks_come_as_often_as_the_job_says",
    ),
    "checkpoint.keep": Mutant(
        SAVER,
        "- started)\n            prune_checkpoints(self._folder, self._settings.keep,",
        "- started)\n            prune_checkpoints(self._folder, 3,",
        "unit/test_settings_of_outputs.py::test_checkpoints_are_kept_and_written_as_set",
    ),
    "checkpoint.keep_best": Mutant(
        "runs/best.py",
        "by = job.checkpoint.keep_best",
        "by = True",
        "unit/test_best.py::test_what_is_better_comes_from_the_settings",
    ),
    "checkpoint.background": Mutant(
        SAVER,
        "if not self._settings.background:",
        "if False:",
        "unit/test_settings_of_outputs.py::test_checkpoints_are_kept_and_written_as_set",
    ),
    "checkpoint.max_minutes": Mutant(
        "training/run.py",
        "StopRequest(job.checkpoint.max_minutes)",
        "StopRequest(None)",
        "unit/test_settings_of_training.py::test_a_run_begins_with_its_settings",
    ),
    "export.merge": Mutant(
        "training/finish.py",
        "if job.export.merge and",
        "if False and",
        "unit/test_settings_of_outputs.py::test_an_adapter_is_merged_if_asked_to",
    ),
    "hub.push": Mutant(
        "training/finish.py",
        "if job.hub.push or job.hub.dry_run:",
        "if job.hub.dry_run:",
        "unit/test_settings_of_outputs.py::test_a_run_is_published_if_asked_to",
    ),
    "hub.repo": Mutant(
        PUBLISH,
        "repo_id=job.hub.repo",
        'repo_id="owner/name"',
        "unit/test_settings_of_outputs.py::test_the_result_is_uploaded_as_set",
    ),
    "hub.private": Mutant(
        PUBLISH,
        "private=job.hub.private",
        "private=False",
        "unit/test_settings_of_outputs.py::test_the_result_is_uploaded_as_set",
    ),
    "hub.dry_run": Mutant(
        PUBLISH,
        "if job.hub.dry_run:",
        "if False:",
        "unit/test_settings_of_outputs.py::test_the_result_is_uploaded_as_set",
    ),
    "sweep.objective": Mutant(
        "launch/start.py",
        "return objective(summary, job.sweep.objective)",
        "return objective(summary)",
        "unit/test_best.py::test_the_objective_of_a_job",
    ),
    "sweep.resume": Mutant(
        "launch/start.py",
        "if in_sweep and job.sweep.resume:",
        "if False:",
        "unit/test_settings_of_training.py::test_a_job_of_a_sweep_is_resumed_if_that_is_asked_for",
    ),
    "sweep.gpus": Mutant(
        GPUS,
        "if not sweep.gpus:",
        "if True:",
        "unit/test_sweep.py::test_jobs_that_run_together_never_have_the_same_gpu",
    ),
    "sweep.gpus_per_job": Mutant(
        GPUS,
        "if len(taken) < sweep.gpus_per_job and",
        "if len(taken) < 1 and",
        "unit/test_settings_of_outputs.py::test_a_job_of_a_sweep_gets_as_many_gpus_as_set",
    ),
    "profile.enabled": Mutant(
        "training/monitor/profiled.py",
        "if not settings.enabled or",
        "if",
        "unit/test_settings_of_outputs.py::test_the_steps_that_are_set_are_profiled",
    ),
    "profile.skip": Mutant(
        "profiling/recorder.py",
        "wait=settings.skip,",
        "wait=3,",
        "unit/test_settings_of_outputs.py::test_the_steps_that_are_set_are_profiled",
    ),
    "profile.warmup": Mutant(
        "profiling/recorder.py",
        "warmup=settings.warmup,",
        "warmup=2,",
        "unit/test_settings_of_outputs.py::test_the_steps_that_are_set_are_profiled",
    ),
    "profile.record": Mutant(
        "profiling/recorder.py",
        "active=settings.record,",
        "active=3,",
        "unit/test_settings_of_outputs.py::test_the_steps_that_are_set_are_profiled",
    ),
}
