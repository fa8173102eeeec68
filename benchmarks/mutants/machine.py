"""Settings of memory, kernels, processes and predictions."""

from benchmarks.mutants.mutant import Mutant
from cogvx_exp.config.schema import Hardware

BLOCKS, LOAD, TRAINABLE = "model/offload/blocks.py", "model/load.py", "training/model.py"
BACKENDS, SPEED, WORKERS, SECONDS = (
    "model/attention/backends.py",
    "config/rules/speed.py",
    "launch/workers/start.py",
    "estimate/time/seconds.py",
)

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
        "unit/test_attention.py::test_a_kernel_that_quantizes_gets_the_exact_backward_pass",
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
    "hardware.device": Mutant(
        "estimate/time/cards.py",
        "re.escape(card.device or '')",
        "re.escape(card.name)",
        "unit/test_throughput.py::test_a_device_is_known_by_its_name",
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
