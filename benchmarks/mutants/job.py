"""Settings of a run as a whole, of its method, optimizer and schedule."""

from benchmarks.mutants.mutant import Mutant

RUN, SETUP, START, RESUME = "training/run.py", "training/setup.py", "launch/start.py", "launch/resume.py"
TRAINABLE, ADAPT, BUILD = "training/model.py", "model/adapt.py", "optim/build.py"
SCHEDULE, STREAM, CALLBACKS = "optim/lr_scheduler.py", "loading/stream.py", "training/callbacks.py"
OPTIMIZER = "unit/test_optimizer.py"

MUTANTS = {
    "name": Mutant(START, "{now}_{job.name}", "{now}_run", "integration/test_main_job.py"),
    "run_dir": Mutant(START, "    if job.run_dir:\n        return job.run_dir\n", "", "integration/test_sweeps.py"),
    "cache_dir": Mutant(SETUP, "pipeline = pipeline_folder(job.model, job.cache_dir)", 'pipeline = pipeline_folder(job.model, Path("outputs/cache"))', "integration/test_main_job.py"),
    "resume": Mutant(START, "find_checkpoint(job, OUTPUTS) if job.resume else None", "None", "integration/test_main_job.py"),
    "resume_changed": Mutant(RESUME, "if differences and not job.resume_changed:", "if differences:", "integration/test_failures.py"),
    "seed": Mutant(STREAM, "seed=job.seed,", "seed=42,", "integration/test_learning.py"),
    "device": Mutant("model/device.py", 'if device == "auto":', "if True:", "unit/test_places.py"),
    "allow_tf32": Mutant(RUN, "set_tf32(job.allow_tf32)", "set_tf32(True)", "unit/test_places.py"),
    "compile": Mutant(TRAINABLE, "    if job.compile:", "    if False:", "unit/test_compilation.py"),
    "compile_dynamic": Mutant(TRAINABLE, "compile_blocks(transformer, job.compile_dynamic,", "compile_blocks(transformer, None,", "unit/test_compilation.py"),
    "steps": Mutant("training/checkpoint/resuming.py", "return job.steps", "return 3000", "integration/test_main_job.py"),
    "epochs": Mutant("training/checkpoint/resuming.py", "if job.epochs is None:", "if True:", "unit/test_branches.py"),
    "batch_size": Mutant(STREAM, "batch_size=job.batch_size,", "batch_size=1,", "integration/test_learning.py"),
    "gradient_accumulation": Mutant(RUN, "accumulation=job.gradient_accumulation", "accumulation=1", "integration/test_learning.py"),
    "max_grad_norm": Mutant(RUN, "max_grad_norm=job.max_grad_norm", "max_grad_norm=1.0", "integration/test_learning.py"),
    "ema_decay": Mutant(SETUP, "decay=job.ema_decay) if", "decay=0.9999) if", "integration/test_matrix.py"),
    "method.kind": Mutant(ADAPT, 'if method.kind == "full":', "if False:", "integration/test_matrix.py"),
    "method.adapter": Mutant(ADAPT, 'use_dora=method.adapter == "dora"', "use_dora=False", "unit/test_adapter_strength.py"),
    "method.rank": Mutant(ADAPT, '"r": method.rank', '"r": 128', "unit/test_adapter_strength.py"),
    "method.alpha": Mutant(ADAPT, "lora_alpha=method.alpha", "lora_alpha=method.rank", "unit/test_adapter_strength.py"),
    "method.dropout": Mutant(ADAPT, "lora_dropout=method.dropout", "lora_dropout=0.0", "integration/test_learning.py"),
    "method.targets": Mutant(ADAPT, "list(method.targets)", '["to_q", "to_k", "to_v", "to_out.0"]', "unit/test_adapter_strength.py"),
    "method.init": Mutant(ADAPT, 'init_lora_weights=True if method.init == "default" else method.init', "init_lora_weights=True", "unit/test_adapter_strength.py"),
    "method.init_from": Mutant(TRAINABLE, "    if job.method.init_from:", "    if False:", "integration/test_matrix.py"),
    "method.parameters": Mutant(ADAPT, "_free(transformer, method.parameters)", "_free(transformer, None)", "integration/test_matrix.py"),
    "optim.target": Mutant(BUILD, "get_class(optim.target)", 'get_class("torch.optim.AdamW")', OPTIMIZER),
    "optim.lr": Mutant(BUILD, "optim.lr * (lr_factor", "1e-4 * (lr_factor", OPTIMIZER),
    "optim.scale_lr": Mutant(BUILD, "lr_factor if optim.scale_lr else 1.0", "1.0", OPTIMIZER),
    "optim.betas": Mutant(BUILD, 'kwargs["betas"] = tuple(optim.betas)', "pass", "unit/test_resumed_optimizer.py"),
    "optim.eps": Mutant(BUILD, 'kwargs["eps"] = optim.eps', "pass", "unit/test_resumed_optimizer.py"),
    "optim.weight_decay": Mutant(BUILD, "optim.weight_decay if decays", "0.001 if decays", OPTIMIZER),
    "optim.decay_norms_and_biases": Mutant(BUILD, "optim.decay_norms_and_biases or", "True or", OPTIMIZER),
    "optim.kwargs": Mutant(BUILD, "kwargs = dict(optim.kwargs)", "kwargs = {}", OPTIMIZER),
    "optim.matrix_flag": Mutant(BUILD, "        if optim.matrix_flag:", "        if False:", OPTIMIZER),
    "optim.state_values": Mutant("estimate/trace/training_step.py", "optim.state_values * parameter.element_size()", "2 * parameter.element_size()", "unit/test_estimate.py"),
    "optim.state_bytes": Mutant("estimate/trace/training_step.py", "parameter.element_size() + optim.state_bytes", "parameter.element_size()", "unit/test_estimate.py"),
    "optim.rounding_argument": Mutant(BUILD, "kwargs[optim.rounding_argument] = True", "pass", OPTIMIZER),
    "optim.stochastic_rounding": Mutant(BUILD, "    if optim.stochastic_rounding:", "    if False:", OPTIMIZER),
    "optim.offload": Mutant(BUILD, 'if optim.offload and device.type == "cuda":', "if False:", OPTIMIZER),
    "optim.offload_gradients": Mutant(BUILD, '"offload_gradients": optim.offload_gradients', '"offload_gradients": False', OPTIMIZER),
    "optim.release_gradients": Mutant(BUILD, "if optim.release_gradients:", "if False:", OPTIMIZER),
    "lr_scheduler.name": Mutant(SCHEDULE, "            settings.name,", '            "constant_with_warmup",', "unit/test_resumed_optimizer.py"),
    "lr_scheduler.warmup_steps": Mutant(SCHEDULE, "num_warmup_steps=settings.warmup_steps", "num_warmup_steps=400", "integration/test_optimizers.py"),
    "lr_scheduler.num_cycles": Mutant(SCHEDULE, '"num_cycles": settings.num_cycles', '"num_cycles": None', "integration/test_optimizers.py"),
    "lr_scheduler.power": Mutant(SCHEDULE, "settings.power or 1.0", "1.0", "unit/test_resumed_optimizer.py"),
}
