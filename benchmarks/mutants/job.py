"""Settings of a run as a whole, of its method, optimizer and schedule."""

from benchmarks.mutants.mutant import Mutant

RUN, SETUP, START, RESUME = "training/run.py", "training/setup.py", "launch/start.py", "launch/resume.py"
TRAINABLE, ADAPT, BUILD = "training/model.py", "model/adapt.py", "optim/build.py"
SCHEDULE, STREAM = "optim/lr_scheduler.py", "loading/stream.py"

MUTANTS = {
    "name": Mutant(
        START, "{now}_{job.name}", "{now}_run", "unit/test_settings_of_training.py::test_folders_are_those_of_the_job"
    ),
    "run_dir": Mutant(
        START,
        "    if job.run_dir:\n        return job.run_dir\n",
        "",
        "unit/test_settings_of_training.py::test_folders_are_those_of_the_job",
    ),
    "cache_dir": Mutant(
        SETUP,
        "pipeline = pipeline_folder(job.model, job.cache_dir)",
        'pipeline = pipeline_folder(job.model, Path("outputs/cache"))',
        "unit/test_settings_of_training.py::test_random_models_are_kept_in_the_cache_of_the_job",
    ),
    "resume": Mutant(
        START,
        "find_checkpoint(job, OUTPUTS) if job.resume else None",
        "None",
        "unit/test_settings_of_training.py::test_a_checkpoint_is_looked_for_if_the_job_resumes",
    ),
    "resume_changed": Mutant(
        RESUME,
        "if differences and not job.resume_changed:",
        "if differences:",
        "unit/test_settings_of_training.py::test_a_checkpoint_is_looked_for_if_the_job_resumes",
    ),
    "seed": Mutant(
        STREAM,
        "seed=job.seed,",
        "seed=42,",
        "unit/test_settings_of_training.py::test_batches_are_drawn_as_the_job_says",
    ),
    "device": Mutant(
        "model/device.py",
        'if device == "auto":',
        "if True:",
        "unit/test_settings_of_training.py::test_device_and_dtype_are_those_of_the_job",
    ),
    "allow_tf32": Mutant(
        RUN,
        "set_tf32(job.allow_tf32)",
        "set_tf32(True)",
        "unit/test_settings_of_training.py::test_a_run_begins_with_its_settings[True]",
    ),
    "compile": Mutant(
        TRAINABLE,
        "    if job.compile:",
        "    if False:",
        "unit/test_settings_of_training.py::test_the_transformer_has_the_options_of_the_job",
    ),
    "compile_dynamic": Mutant(
        TRAINABLE,
        "compile_blocks(transformer, job.compile_dynamic,",
        "compile_blocks(transformer, None,",
        "unit/test_settings_of_training.py::test_the_transformer_has_the_options_of_the_job",
    ),
    "steps": Mutant(
        "training/checkpoint/resuming.py",
        "return job.steps",
        "return 3000",
        "unit/test_settings_of_training.py::test_the_loop_has_the_steps_and_the_clipping_of_the_job",
    ),
    "epochs": Mutant(
        "training/checkpoint/resuming.py",
        "if job.epochs is None:",
        "if True:",
        "unit/test_branches.py::test_epochs_count_what_was_seen[4-1-1-40]",
    ),
    "batch_size": Mutant(
        STREAM,
        "batch_size=job.batch_size,",
        "batch_size=1,",
        "unit/test_settings_of_training.py::test_batches_are_drawn_as_the_job_says",
    ),
    "gradient_accumulation": Mutant(
        RUN,
        "accumulation=job.gradient_accumulation",
        "accumulation=1",
        "unit/test_settings_of_training.py::test_the_loop_has_the_steps_and_the_clipping_of_the_job",
    ),
    "max_grad_norm": Mutant(
        RUN,
        "max_grad_norm=job.max_grad_norm",
        "max_grad_norm=1.0",
        "unit/test_settings_of_training.py::test_the_loop_has_the_steps_and_the_clipping_of_the_job",
    ),
    "ema_decay": Mutant(
        SETUP,
        "Ema(strategy, job.ema_decay) if",
        "Ema(strategy, 0.9999) if",
        "unit/test_settings_of_training.py::test_the_average_has_the_decay_of_the_job",
    ),
    "method.kind": Mutant(
        ADAPT,
        'if method.kind == "full":',
        "if False:",
        "unit/test_settings_of_training.py::test_full_fine_tuning_trains_the_parameters_that_match",
    ),
    "method.adapter": Mutant(
        ADAPT,
        'use_dora=method.adapter == "dora"',
        "use_dora=False",
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.rank": Mutant(
        ADAPT,
        '"r": method.rank',
        '"r": 128',
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.alpha": Mutant(
        ADAPT,
        "lora_alpha=method.alpha",
        "lora_alpha=method.rank",
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.dropout": Mutant(
        ADAPT,
        "lora_dropout=method.dropout",
        "lora_dropout=0.0",
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.targets": Mutant(
        ADAPT,
        "list(method.targets)",
        '["to_q", "to_k", "to_v", "to_out.0"]',
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.init": Mutant(
        ADAPT,
        'init_lora_weights=True if method.init == "default" else method.init',
        "init_lora_weights=True",
        "unit/test_settings_of_training.py::test_an_adapter_is_the_one_of_the_method",
    ),
    "method.init_from": Mutant(
        TRAINABLE,
        "    if job.method.init_from:",
        "    if False:",
        "unit/test_settings_of_training.py::test_the_transformer_has_the_options_of_the_job",
    ),
    "method.parameters": Mutant(
        ADAPT,
        "_free(transformer, method.parameters)",
        "_free(transformer, None)",
        "unit/test_settings_of_training.py::test_full_fine_tuning_trains_the_parameters_that_match",
    ),
    "optim.target": Mutant(
        BUILD,
        "get_class(optim.target)",
        'get_class("torch.optim.AdamW")',
        "unit/test_optimizer.py::test_optimizer_states_take_what_its_file_says[adafactor]",
    ),
    "optim.lr": Mutant(
        BUILD,
        "optim.lr * (lr_factor",
        "1e-4 * (lr_factor",
        "unit/test_optimizer.py::test_learning_rate_is_scaled_by_the_samples_of_a_step",
    ),
    "optim.scale_lr": Mutant(
        BUILD,
        "lr_factor if optim.scale_lr else 1.0",
        "1.0",
        "unit/test_optimizer.py::test_learning_rate_is_scaled_by_the_samples_of_a_step",
    ),
    "optim.betas": Mutant(
        BUILD,
        'kwargs["betas"] = tuple(optim.betas)',
        "pass",
        "unit/test_resumed_optimizer.py::test_new_settings_hold_and_what_was_learned_stays[adamw]",
    ),
    "optim.eps": Mutant(
        BUILD,
        'kwargs["eps"] = optim.eps',
        "pass",
        "unit/test_resumed_optimizer.py::test_new_settings_hold_and_what_was_learned_stays[adamw]",
    ),
    "optim.weight_decay": Mutant(
        BUILD,
        "optim.weight_decay if decays",
        "0.001 if decays",
        "unit/test_optimizer.py::test_norms_and_biases_may_be_left_out_of_the_decay",
    ),
    "optim.decay_norms_and_biases": Mutant(
        BUILD,
        "optim.decay_norms_and_biases or",
        "True or",
        "unit/test_optimizer.py::test_norms_and_biases_may_be_left_out_of_the_decay",
    ),
    "optim.kwargs": Mutant(
        BUILD,
        "kwargs = dict(optim.kwargs)",
        "kwargs = {}",
        "unit/test_optimizer.py::test_the_rate_means_the_same_to_every_optimizer[adafactor]",
    ),
    "optim.matrix_flag": Mutant(
        BUILD,
        "        if optim.matrix_flag:",
        "        if False:",
        "unit/test_optimizer.py::test_optimizer_states_take_what_its_file_says[muon]",
    ),
    "optim.state_values": Mutant(
        "estimate/trace/training_step.py",
        "optim.state_values * parameter.element_size()",
        "2 * parameter.element_size()",
        "unit/test_settings_of_training.py::test_the_prediction_counts_the_bytes_of_the_files",
    ),
    "optim.state_bytes": Mutant(
        "estimate/trace/training_step.py",
        "parameter.element_size() + optim.state_bytes",
        "parameter.element_size()",
        "unit/test_settings_of_training.py::test_the_prediction_counts_the_bytes_of_the_files",
    ),
    "optim.rounding_argument": Mutant(
        BUILD,
        "kwargs[optim.rounding_argument] = True",
        "pass",
        "unit/test_optimizer.py::test_stochastic_rounding_keeps_updates_that_bfloat16_loses[ao_adamw]",
    ),
    "optim.stochastic_rounding": Mutant(
        BUILD,
        "    if optim.stochastic_rounding:",
        "    if False:",
        "unit/test_optimizer.py::test_stochastic_rounding_keeps_updates_that_bfloat16_loses[ao_adamw]",
    ),
    "optim.offload": Mutant(
        BUILD,
        'if optim.offload and device.type == "cuda":',
        "if False:",
        "unit/test_optimizer.py::test_offloaded_optimizer_clips_and_follows_the_schedule[0.05-True]",
    ),
    "optim.offload_gradients": Mutant(
        BUILD,
        '"offload_gradients": optim.offload_gradients',
        '"offload_gradients": False',
        "unit/test_optimizer.py::test_offloaded_optimizer_clips_and_follows_the_schedule[0.05-True]",
    ),
    "optim.release_gradients": Mutant(
        BUILD,
        "if optim.release_gradients:",
        "if False:",
        "unit/test_settings_of_training.py::test_gradients_are_released_if_the_job_says_so",
    ),
    "lr_scheduler.name": Mutant(
        SCHEDULE,
        "            settings.name,",
        '            "constant_with_warmup",',
        "integration/test_optimizers.py::test_learning_rate_follows_its_formula",
    ),
    "lr_scheduler.warmup_steps": Mutant(
        SCHEDULE,
        "num_warmup_steps=settings.warmup_steps",
        "num_warmup_steps=400",
        "integration/test_optimizers.py::test_learning_rate_follows_its_formula",
    ),
    "lr_scheduler.num_cycles": Mutant(
        SCHEDULE,
        '"num_cycles": settings.num_cycles',
        '"num_cycles": None',
        "integration/test_optimizers.py::test_learning_rate_follows_its_formula",
    ),
    "lr_scheduler.power": Mutant(
        SCHEDULE,
        "settings.power or 1.0",
        "1.0",
        "integration/test_optimizers.py::test_learning_rate_follows_its_formula",
    ),
}
