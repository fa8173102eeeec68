"""Settings of memory, kernels, processes, predictions, and of what a run leaves."""

from benchmarks.mutants.mutant import Mutant
from cogvx_exp.config.schema import Hardware

BLOCKS, LOAD, TRAINABLE = "model/offload/blocks.py", "model/load.py", "training/model.py"
BACKENDS, SPEED, WORKERS, SECONDS = (
    "model/attention/backends.py",
    "config/rules/speed.py",
    "launch/workers/start.py",
    "estimate/time/seconds.py",
)
TRACKERS, SAVER, PUBLISH, GPUS = (
    "tracking/trackers.py",
    "training/checkpoint/saver.py",
    "tracking/publish.py",
    "sweep/gpus.py",
)
TRACKIO, TRACKED = "tracking/trackio_tracker.py", "unit/test_trackio.py"
ATTENTION, TIME = "unit/test_attention.py", "unit/test_time.py"
PROCESSES, TRACKER = "integration/test_processes.py", "integration/test_trackers.py"

MUTANTS = {
    "memory.activations": Mutant(
        BLOCKS,
        'if memory.activations != "keep":',
        "if False:",
        "unit/test_settings_of_outputs.py::test_blocks_have_the_options_of_the_memory",
    ),
    "memory.stream_blocks": Mutant(
        BLOCKS,
        "if memory.stream_blocks:",
        "if False:",
        "unit/test_settings_of_outputs.py::test_blocks_have_the_options_of_the_memory",
    ),
    "memory.ff_chunks": Mutant(
        BLOCKS,
        "if memory.ff_chunks > 1:",
        "if False:",
        "unit/test_settings_of_outputs.py::test_blocks_have_the_options_of_the_memory",
    ),
    "memory.norms": Mutant(
        BLOCKS,
        'if memory.norms == "model":',
        "if True:",
        "unit/test_settings_of_outputs.py::test_blocks_have_the_options_of_the_memory",
    ),
    "memory.vae_slicing": Mutant(
        LOAD,
        "if memory.vae_slicing:",
        "if True:",
        "unit/test_settings_of_outputs.py::test_the_vae_works_on_slices_or_tiles",
    ),
    "memory.vae_tiling": Mutant(
        LOAD,
        "if memory.vae_tiling:",
        "if True:",
        "unit/test_settings_of_outputs.py::test_the_vae_works_on_slices_or_tiles",
    ),
    "memory.budget": Mutant(
        "launch/preflight.py",
        "budget = job.memory.budget",
        "budget = None",
        "unit/test_settings_of_outputs.py::test_a_budget_is_compared_with_the_prediction",
    ),
    "memory.preflight": Mutant(
        "launch/preflight.py",
        "if not job.memory.preflight:",
        "if False:",
        "unit/test_settings_of_outputs.py::test_a_budget_is_compared_with_the_prediction",
    ),
    "attention.forward": Mutant(
        BACKENDS,
        '_imported(settings) if "." in settings.forward else _dispatched(settings)',
        '_dispatched(settings.model_copy(update={"forward": "native"}))',
        "unit/test_attention.py::test_the_kernel_that_is_named_is_the_one_that_runs",
    ),
    "attention.backward": Mutant(
        BACKENDS,
        '    if settings.backward == "exact":\n        return partial(attend',
        "    if False:\n        return partial(attend",
        "unit/test_attention.py::test_with_an_exact_forward_pass_the_gradients_are_exact",
    ),
    "attention.device": Mutant(
        SPEED,
        'if attention.device == "cuda" and device == "cpu":',
        "if False:",
        "unit/test_attention.py::test_what_a_machine_cannot_do_is_refused_with_what_it_can",
    ),
    "attention.cuda_dtypes": Mutant(
        SPEED,
        'if device == "cuda" and dtype not in attention.cuda_dtypes:',
        "if False:",
        "unit/test_attention.py::test_what_a_machine_cannot_do_is_refused_with_what_it_can",
    ),
    "attention.min_compute_capability": Mutant(
        SPEED,
        "needed = attention.min_compute_capability",
        "needed = None",
        "unit/test_attention.py::test_what_a_machine_cannot_do_is_refused_with_what_it_can",
    ),
    "attention.package": Mutant(
        SPEED,
        "if attention.package and",
        "if False and",
        "unit/test_attention.py::test_what_a_machine_cannot_do_is_refused_with_what_it_can",
    ),
    "attention.needs_compile": Mutant(
        SPEED,
        "if attention.needs_compile and not job.compile:",
        "if False:",
        "unit/test_attention.py::test_what_is_known_without_a_gpu_is_refused_with_the_configuration",
    ),
    "quant.name": Mutant(
        TRAINABLE,
        "quant=job.quant.name",
        'quant="none"',
        "unit/test_settings_of_training.py::test_the_transformer_has_the_options_of_the_job",
    ),
    "quant.compute": Mutant(
        TRAINABLE,
        'in_8_bits=job.quant.compute == "8bit"',
        "in_8_bits=False",
        "unit/test_settings_of_training.py::test_the_transformer_has_the_options_of_the_job",
    ),
    "quant.bytes_per_weight": Mutant(
        "estimate/trace/fake_models.py",
        "int(layer.weight.numel() * quant.bytes_per_weight)",
        "int(layer.weight.numel() * 2)",
        "unit/test_settings_of_training.py::test_the_prediction_counts_the_bytes_of_the_files",
    ),
    "distributed.name": Mutant(
        WORKERS,
        'if distributed.name == "single":',
        "if True:",
        "unit/test_settings_of_training.py::test_processes_are_started_as_the_job_says",
    ),
    "distributed.processes": Mutant(
        WORKERS,
        "--nproc-per-node={distributed.processes}",
        "--nproc-per-node=1",
        "unit/test_settings_of_training.py::test_processes_are_started_as_the_job_says",
    ),
    "distributed.nodes": Mutant(
        WORKERS,
        "--nnodes={distributed.nodes}",
        "--nnodes=1",
        "unit/test_settings_of_training.py::test_processes_are_started_as_the_job_says",
    ),
    "distributed.node_rank": Mutant(
        WORKERS,
        "--node-rank={distributed.node_rank}",
        "--node-rank=0",
        "unit/test_settings_of_training.py::test_processes_are_started_as_the_job_says",
    ),
    "distributed.rendezvous": Mutant(
        WORKERS,
        "--master-port={port}",
        "--master-port=29500",
        "unit/test_settings_of_training.py::test_processes_are_started_as_the_job_says",
    ),
    "distributed.timeout": Mutant(
        "training/run.py",
        "job.distributed.timeout or DEFAULT_TIMEOUT",
        "DEFAULT_TIMEOUT",
        "unit/test_settings_of_training.py::test_the_timeout_of_a_step_is_that_of_the_job",
    ),
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
        "return partial(found, **settings.kwargs)",
        "return partial(found)",
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
        "self._settings.keep, keep_best",
        "3, keep_best",
        "unit/test_settings_of_outputs.py::test_checkpoints_are_kept_and_written_as_set",
    ),
    "checkpoint.keep_best": Mutant(
        SAVER,
        "keep_best=self._settings.keep_best",
        "keep_best=True",
        "unit/test_settings_of_outputs.py::test_checkpoints_are_kept_and_written_as_set",
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
        "unit/test_sweep.py::test_jobs_that_run_together_never_have_the_same_gpu",
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
    "hardware.device": Mutant(
        "estimate/time/cards.py",
        "return card.device is not None and re",
        "return re",
        "unit/test_throughput.py::test_another_device_is_not_taken_for_it",
    ),
    "hardware.price_per_hour": Mutant(
        "estimate/time/prediction.py",
        "price_per_hour=card.price_per_hour * processes if card.price_per_hour else None",
        "price_per_hour=None",
        "unit/test_time.py::test_a_5b_on_three_cards",
    ),
}
RATE = "unit/test_time.py::test_each_part_has_its_rate"
RATES = (
    *("peak_tflops", "float32_tflops", "bandwidth", "link", "host_bandwidth", "matmul_efficiency"),
    *("attention_efficiency", "attention_backward_efficiency", "convolution_efficiency", "bandwidth_efficiency"),
    "operator_microseconds",
)
assert set(RATES) < Hardware.model_fields.keys()
for name in RATES:
    before = "_value(card.peak_tflops)\n" if name == "peak_tflops" else f"_value(card.{name})"
    MUTANTS[f"hardware.{name}"] = Mutant(SECONDS, before, before.replace(f"card.{name}", "1.0"), RATE)
