"""Settings of a run arrive where they take effect. What they are passed to is replaced: nothing is computed."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.estimate.trace import fake_models, training_step
from cogvx_exp.launch import resume, start
from cogvx_exp.launch.workers import start as workers
from cogvx_exp.loading.stream import batch_stream
from cogvx_exp.model.adapt import make_trainable, peft_config_of, trainable_parameters
from cogvx_exp.model.build import build_transformer
from cogvx_exp.model.device import choose_compute
from cogvx_exp.optim.build import build_optimizer
from cogvx_exp.optim.in_backward import OptimizerInBackward
from cogvx_exp.training import callbacks, model, run, setup
from cogvx_exp.training.checkpoint.resuming import run_steps
from cogvx_exp.training.stopping import StopRequest
from tests.conftest import MakeJob
from tests.replaced import ReachedError, replaced

PROCESSES = ProcessGroup()


def test_the_loop_has_the_steps_and_the_clipping_of_the_job(
    edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = edit_job("seed=5", "gradient_accumulation=3", "max_grad_norm=0.25", "steps=7")
    mocks = replaced(monkeypatch, run, "train_loop", "Callbacks", "CheckpointSaver", "Metrics")
    mocks["train_loop"].return_value = 7
    training = MagicMock(first_step=0, steps=run_steps(job, 10, 3, None))
    run._train(MagicMock(job=job, training=training, processes=PROCESSES), StopRequest(None))
    schedule = mocks["train_loop"].call_args.args[-1]
    assert (schedule.steps, schedule.accumulation, schedule.max_grad_norm, schedule.seed) == (7, 3, 0.25, 5)


def test_batches_are_drawn_as_the_job_says(edit_job: MakeJob) -> None:
    clips = [SimpleNamespace(bucket="one", source=0)] * 10
    dataset: Any = SimpleNamespace(clips=clips, rates=[1.0], bucket_counts=lambda: Counter(one=10))
    stream = batch_stream(edit_job("seed=5", "batch_size=4", "data.remainder=drop"), dataset, PROCESSES)
    assert (stream.seed, stream.batch_size, stream.dropped, stream.batches_per_epoch) == (5, 4, 2, 2)


@pytest.mark.parametrize("baseline", [True, False])
def test_a_run_begins_with_its_settings(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, baseline: bool) -> None:
    names = ("set_tf32", "prepare_data", "build_training", "_open", "Context", "_train", "MemoryLog")
    mocks = replaced(monkeypatch, run, *names)
    stop = MagicMock(wraps=StopRequest)
    monkeypatch.setattr(run, "StopRequest", stop)
    monkeypatch.setattr(run, "accelerator_for", lambda compute: nullcontext())
    mocks["_train"].side_effect = ReachedError
    settings = ["allow_tf32=false", "checkpoint.max_minutes=2.5", f"validation.baseline={str(baseline).lower()}"]
    with pytest.raises(ReachedError):
        run.train(edit_job(*settings), MagicMock(), MagicMock(), None)
    mocks["set_tf32"].assert_called_once_with(False)
    stop.assert_called_once_with(2.5)
    assert mocks["Context"].return_value.sample.called == baseline


def test_the_timeout_of_a_step_is_that_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, run, "init_process_group", "destroy_process_group")
    with run.joined(edit_job("distributed=ddp", "distributed.processes=2", "distributed.timeout=77")):
        pass
    mocks["init_process_group"].assert_called_once_with(False, 77)


def test_callbacks_come_as_often_as_the_job_says(edit_job: MakeJob) -> None:
    def when(*settings: str) -> dict[str, int | None]:
        training = MagicMock(stream=MagicMock(batches_per_epoch=12))
        job = edit_job("checkpoint.every=50", "validation.loss_every=20", "gradient_accumulation=2", *settings)
        context = MagicMock(job=job, training=training, processes=MagicMock(is_main_process=False, world_size=2))
        between = callbacks.Callbacks(context, MagicMock()).between_steps()
        return {callback.run.__name__: callback.every for callback in between}

    assert when("validation.every=30") == {"measure": 20, "save": 50, "validate": 30}
    assert when("validation.every=null", "validation.every_epochs=2")["validate"] == 6
    assert when("validation=none") == {"measure": 20, "save": 50}


def test_the_transformer_has_the_options_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("load_transformer", "make_trainable", "load_adapter_weights", "find_adapter", "_print_parameters")
    names += ("apply_memory_options", "set_attention", "compile_blocks", "fits_learned_positions")
    mocks = replaced(monkeypatch, model, *names)
    settings = ["quant=int8", "quant.compute=8bit", "attention=math", "compile=blocks", "compile_dynamic=true"]
    settings += ["method.init_from=there", "memory.ff_chunks=2", "seed=5"]
    job = edit_job(*settings)
    model.load_trainable(job, MagicMock(compute=choose_compute("cpu", job.model)), [], 3)
    loaded = mocks["load_transformer"].call_args.kwargs
    assert (loaded["quant"], loaded["in_8_bits"], loaded["blocks_on_host"]) == ("int8", True, False)
    transformer = mocks["load_transformer"].return_value
    mocks["find_adapter"].assert_called_once_with(Path("there"), "method.init_from")
    mocks["compile_blocks"].assert_called_once_with(transformer, True, job.cache_dir)
    assert mocks["apply_memory_options"].call_args.args[1] == job.memory
    mocks["set_attention"].assert_called_once_with(transformer, job.attention)
    assert mocks["make_trainable"].call_args.args[1:3] == (job.method, 5)
    model.load_trainable(edit_job(), MagicMock(compute=choose_compute("cpu", job.model)), [], 3)
    assert mocks["compile_blocks"].call_count == mocks["find_adapter"].call_count == 1
    assert mocks["load_transformer"].call_args.kwargs["quant"] == "none"


def test_the_average_has_the_decay_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("batch_stream", "run_steps", "load_trainable", "build_strategy", "Ema", "load_scheduler")
    names += ("TrainingState",)
    mocks = replaced(monkeypatch, setup, *names)
    mocks["load_trainable"].return_value = (MagicMock(config={}), False)
    mocks["load_scheduler"].side_effect = ReachedError
    with pytest.raises(ReachedError):
        setup.build_training(edit_job("ema_decay=0.75"), MagicMock(), MagicMock())
    assert mocks["Ema"].call_args.args[1] == 0.75


def test_the_held_out_loss_has_the_timesteps_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, setup, "TrainingSamples", "HeldOutLoss")
    job, space = edit_job("validation.loss_timesteps=4"), MagicMock(num_train_timesteps=1000)
    setup._held_out(job, MagicMock(), space, MagicMock())
    assert len(mocks["HeldOutLoss"].call_args.args[3]) == 4


def test_an_adapter_is_the_one_of_the_method(edit_job: MakeJob) -> None:
    settings = ["method.rank=3", "method.alpha=6", "method.dropout=0.25", "method.targets=[to_q]"]
    config: Any = peft_config_of(edit_job(*settings, "method.init=gaussian").method)
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_dora) == (3, 6, 0.25, False)
    assert (config.target_modules, config.init_lora_weights) == ({"to_q"}, "gaussian")
    assert peft_config_of(edit_job("method=dora").method).use_dora
    for name in ("loha", "lokr"):
        config = peft_config_of(edit_job(f"method={name}", "method.rank=3", "method.alpha=6").method)
        assert (config.peft_type.value.lower(), config.r, config.alpha) == (name, 3, 6)


def test_full_fine_tuning_trains_the_parameters_that_match(edit_job: MakeJob) -> None:
    job = edit_job("method=sft", "method.parameters='norm_final'")
    transformer = build_transformer(job.model)
    make_trainable(transformer, job.method, 0)
    assert set(trainable_parameters(transformer)) == {"norm_final.weight", "norm_final.bias"}


def test_gradients_are_released_if_the_job_says_so(edit_job: MakeJob) -> None:
    weight = {"weight": torch.nn.Parameter(torch.zeros(2, 2))}
    optim = edit_job("optim.release_gradients=true", "max_grad_norm=null").optim
    assert isinstance(build_optimizer(weight, optim, torch.device("cpu")), OptimizerInBackward)


def test_the_prediction_counts_the_bytes_of_the_files(edit_job: MakeJob) -> None:
    weight = {"weight": torch.nn.Parameter(torch.zeros(10, dtype=torch.bfloat16))}
    optim = edit_job("optim.state_values=3", "optim.state_bytes=1.5").optim
    (state,) = training_step._optimizer_states(weight, optim, MagicMock())
    assert state.nbytes == 10 * (3 * 2 + 1.5)
    layer = torch.nn.Linear(10, 4)
    fake_models._pack(layer, edit_job("quant=int8", "quant.bytes_per_weight=0.75").quant, in_8_bits=False)
    assert layer.weight.nbytes == 30


def test_processes_are_started_as_the_job_says(edit_job: MakeJob) -> None:
    several = ["distributed=ddp", "distributed.processes=3", "distributed.nodes=2", "distributed.node_rank=1"]
    job = edit_job(*several, "distributed.rendezvous=there:123")
    command = workers._command(job, Path("logs"))
    assert {"torch.distributed.run", "--nproc-per-node=3", "--nnodes=2", "--node-rank=1"} <= set(command)
    assert {"--master-addr=there", "--master-port=123"} <= set(command)
    assert "torch.distributed.run" not in workers._command(edit_job(), Path("logs"))


def test_folders_are_those_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hydra = MagicMock(mode=start.RunMode.RUN)
    monkeypatch.setattr(start, "HydraConfig", MagicMock(get=lambda: hydra))
    assert start._run_dir(edit_job("name=mine"), None).name.endswith("_mine")
    assert start._run_dir(edit_job(f"run_dir={tmp_path}/run"), None) == tmp_path / "run"


def test_a_checkpoint_is_looked_for_if_the_job_resumes(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, start, "find_checkpoint", "load_dataset")
    mocks["find_checkpoint"].side_effect = ReachedError
    with pytest.raises(ReachedError):
        start._begin(edit_job("resume=there"), [])
    monkeypatch.setattr(resume, "_differences", lambda job, checkpoint: ["method was lora, now dora"])
    checkpoint: Any = MagicMock()
    assert resume._agreeing(edit_job("resume=there", "resume_changed=true"), checkpoint) is checkpoint
    with pytest.raises(UserError, match="method was lora, now dora"):
        resume._agreeing(edit_job("resume=there"), checkpoint)


def test_a_job_of_a_sweep_is_resumed_if_that_is_asked_for(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    hydra = MagicMock(mode=start.RunMode.MULTIRUN)
    monkeypatch.setattr(start, "HydraConfig", MagicMock(get=lambda: hydra))
    mocks = replaced(monkeypatch, start, "resume_job", "_begin", "_check_direction")
    mocks["resume_job"].return_value = (edit_job(), {"loss": 1.0})
    mocks["_begin"].side_effect = ReachedError
    monkeypatch.setattr(start, "objective", lambda done, goal: done["loss"])
    assert start.launch(edit_job("sweep.resume=true"), []) == 1.0
    with pytest.raises(ReachedError):
        start.launch(edit_job(), [])


def test_device_and_dtype_are_those_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    job = edit_job()
    assert choose_compute("cpu", job.model).device.type == "cpu"
    assert choose_compute("cpu", edit_job("model.dtype=bfloat16").model).dtype == torch.bfloat16


def test_random_models_are_kept_in_the_cache_of_the_job(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, setup, "pipeline_folder", "build_task")
    mocks["build_task"].side_effect = ReachedError
    job = edit_job("cache_dir=there")
    with pytest.raises(ReachedError):
        setup.prepare_data(job, MagicMock(), MagicMock(), Path("issues.csv"), PROCESSES)
    mocks["pipeline_folder"].assert_called_once_with(job.model, Path("there"))
