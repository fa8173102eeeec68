"""Settings of memory, kernels, processes, predictions, and of what a run leaves."""

from benchmarks.mutants.mutant import Mutant
from cogvx_exp.config.schema import Hardware

BLOCKS, LOAD, TRAINABLE = "model/offload/blocks.py", "model/load.py", "training/model.py"
BACKENDS, SPEED, WORKERS, SECONDS = "model/attention/backends.py", "config/rules/speed.py", "launch/workers/start.py", "estimate/time/seconds.py"
TRACKERS, SAVER, PUBLISH, GPUS = "tracking/trackers.py", "training/checkpoint/saver.py", "tracking/publish.py", "sweep/gpus.py"
TRACKIO, TRACKED = "tracking/trackio_tracker.py", "unit/test_trackio.py"
ATTENTION, TIME = "unit/test_attention.py", "unit/test_time.py"
PROCESSES, TRACKER = "integration/test_processes.py", "integration/test_trackers.py"

MUTANTS = {
    "memory.activations": Mutant(BLOCKS, 'if memory.activations != "keep":', "if False:", "unit/test_blocks.py"),
    "memory.stream_blocks": Mutant(BLOCKS, "if memory.stream_blocks:", "if False:", "unit/test_blocks.py"),
    "memory.ff_chunks": Mutant(BLOCKS, "if memory.ff_chunks > 1:", "if False:", "unit/test_blocks.py"),
    "memory.norms": Mutant(BLOCKS, 'if memory.norms == "model":', "if True:", "unit/test_estimate.py"),
    "memory.vae_slicing": Mutant(LOAD, "if memory.vae_slicing:", "if True:", "unit/test_sampling_memory.py"),
    "memory.vae_tiling": Mutant(LOAD, "if memory.vae_tiling:", "if True:", "unit/test_sampling_memory.py"),
    "memory.budget": Mutant("launch/preflight.py", "budget = job.memory.budget", "budget = None", "integration/test_memory.py"),
    "memory.preflight": Mutant("launch/preflight.py", "if not job.memory.preflight:", "if False:", "unit/test_preflight.py"),
    "attention.forward": Mutant(BACKENDS, '_imported(settings) if "." in settings.forward else _dispatched(settings)', '_dispatched(settings.model_copy(update={"forward": "native"}))', ATTENTION),
    "attention.backward": Mutant(BACKENDS, '    if settings.backward == "exact":\n        return partial(attend', "    if False:\n        return partial(attend", ATTENTION),
    "attention.device": Mutant(SPEED, 'if attention.device == "cuda" and device == "cpu":', "if False:", ATTENTION),
    "attention.cuda_dtypes": Mutant(SPEED, 'if device == "cuda" and dtype not in attention.cuda_dtypes:', "if False:", ATTENTION),
    "attention.min_compute_capability": Mutant(SPEED, "needed = attention.min_compute_capability", "needed = None", ATTENTION),
    "attention.package": Mutant(SPEED, "if attention.package and", "if False and", ATTENTION),
    "attention.needs_compile": Mutant(SPEED, "if attention.needs_compile and not job.compile:", "if False:", ATTENTION),
    "quant.name": Mutant(TRAINABLE, "quant=job.quant.name", 'quant="none"', "integration/test_optimizers.py"),
    "quant.compute": Mutant(TRAINABLE, 'in_8_bits=job.quant.compute == "8bit"', "in_8_bits=False", "unit/test_quantize.py"),
    "quant.bytes_per_weight": Mutant("estimate/trace/fake_models.py", "int(layer.weight.numel() * quant.bytes_per_weight)", "int(layer.weight.numel() * 2)", "unit/test_estimate.py"),
    "distributed.name": Mutant(WORKERS, 'if distributed.name == "single":', "if True:", PROCESSES),
    "distributed.processes": Mutant(WORKERS, "--nproc-per-node={distributed.processes}", "--nproc-per-node=1", PROCESSES),
    "distributed.nodes": Mutant(WORKERS, "--nnodes={distributed.nodes}", "--nnodes=1", PROCESSES),
    "distributed.node_rank": Mutant(WORKERS, "--node-rank={distributed.node_rank}", "--node-rank=0", PROCESSES),
    "distributed.rendezvous": Mutant(WORKERS, "--master-port={port}", "--master-port=29500", PROCESSES),
    "distributed.timeout": Mutant("training/run.py", "job.distributed.timeout or DEFAULT_TIMEOUT", "DEFAULT_TIMEOUT", "unit/test_waiting.py"),
    "tracker.wandb.project": Mutant(TRACKERS, "project=settings.project", 'project="cogvx-exp"', TRACKER),
    "tracker.wandb.entity": Mutant(TRACKERS, "entity=settings.entity", "entity=None", TRACKER),
    "tracker.wandb.group": Mutant(TRACKERS, "group_of(folder, settings.group)", "group_of(folder, None)", TRACKER),
    "tracker.wandb.tags": Mutant(TRACKERS, "tags=settings.tags", "tags=[]", TRACKER),
    "tracker.wandb.mode": Mutant(TRACKERS, "mode=settings.mode", 'mode="disabled"', TRACKER),
    "tracker.wandb.videos": Mutant(TRACKERS, "self._wandb, self._videos = wandb, settings.videos", "self._wandb, self._videos = wandb, True", TRACKER),
    "tracker.trackio.project": Mutant(TRACKIO, "project=settings.project", 'project="cogvx-exp"', TRACKED),
    "tracker.trackio.group": Mutant(TRACKIO, "group_of(folder, settings.group)", "group_of(folder, None)", TRACKED),
    "tracker.trackio.space": Mutant(TRACKIO, "space_id=settings.space", "space_id=None", TRACKED),
    "tracker.trackio.videos": Mutant(TRACKIO, "if self._videos and", "if", TRACKED),
    "tracker.tensorboard.videos": Mutant(TRACKERS, "        self._videos = settings.videos\n", "        self._videos = True\n", TRACKER),
    "tracker.custom.target": Mutant(TRACKERS, "for name, custom in settings.custom.items()", "for name, custom in ()", "unit/test_scores.py"),
    "tracker.custom.kwargs": Mutant("config/imported.py", "return partial(found, **settings.kwargs)", "return partial(found)", "unit/test_scores.py"),
    "checkpoint.every": Mutant("training/callbacks.py", "Callback(self.save, job.checkpoint.every)", "Callback(self.save, None)", "integration/test_main_job.py"),
    "checkpoint.keep": Mutant(SAVER, "self._settings.keep, keep_best", "3, keep_best", "integration/test_failures.py"),
    "checkpoint.keep_best": Mutant(SAVER, "keep_best=self._settings.keep_best", "keep_best=True", "integration/test_failures.py"),
    "checkpoint.background": Mutant(SAVER, "if not self._settings.background:", "if False:", "integration/test_failures.py"),
    "checkpoint.max_minutes": Mutant("training/run.py", "StopRequest(job.checkpoint.max_minutes)", "StopRequest(None)", PROCESSES),
    "export.merge": Mutant("training/finish.py", "if job.export.merge and", "if False and", "integration/test_matrix.py"),
    "hub.push": Mutant("training/finish.py", "if job.hub.push or job.hub.dry_run:", "if job.hub.dry_run:", "unit/test_publish.py"),
    "hub.repo": Mutant(PUBLISH, "repo_id=job.hub.repo", 'repo_id="owner/name"', "integration/test_generate_and_publish.py"),
    "hub.private": Mutant(PUBLISH, "private=job.hub.private", "private=False", "integration/test_generate_and_publish.py"),
    "hub.dry_run": Mutant(PUBLISH, "if job.hub.dry_run:", "if False:", "unit/test_publish.py"),
    "sweep.resume": Mutant("launch/start.py", "if in_sweep and job.sweep.resume:", "if False:", "integration/test_sweeps.py"),
    "sweep.gpus": Mutant(GPUS, "if not sweep.gpus:", "if True:", "unit/test_sweep.py"),
    "sweep.gpus_per_job": Mutant(GPUS, "if len(taken) < sweep.gpus_per_job and", "if len(taken) < 1 and", "unit/test_sweep.py"),
    "profile.enabled": Mutant("training/monitor/profiled.py", "if not settings.enabled or", "if", "integration/test_profile.py"),
    "profile.skip": Mutant("profiling/recorder.py", "wait=settings.skip,", "wait=3,", "integration/test_profile.py"),
    "profile.warmup": Mutant("profiling/recorder.py", "warmup=settings.warmup,", "warmup=2,", "integration/test_profile.py"),
    "profile.record": Mutant("profiling/recorder.py", "active=settings.record,", "active=3,", "integration/test_profile.py"),
    "hardware.device": Mutant("estimate/time/cards.py", "return card.device is not None and re", "return re", "unit/test_throughput.py"),
    "hardware.price_per_hour": Mutant("estimate/time/prediction.py", "price_per_hour=card.price_per_hour * processes if card.price_per_hour else None", "price_per_hour=None", TIME),
}
RATES = (
    *("peak_tflops", "float32_tflops", "bandwidth", "link", "host_bandwidth", "matmul_efficiency"),
    *("attention_efficiency", "attention_backward_efficiency", "convolution_efficiency", "bandwidth_efficiency"),
    "operator_microseconds",
)
assert set(RATES) < Hardware.model_fields.keys()
for name in RATES:
    before = "_value(card.peak_tflops)\n" if name == "peak_tflops" else f"_value(card.{name})"
    MUTANTS[f"hardware.{name}"] = Mutant(SECONDS, before, before.replace(f"card.{name}", "1.0"), TIME)
