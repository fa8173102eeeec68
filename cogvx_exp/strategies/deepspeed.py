"""The DeepSpeed ZeRO strategy: gradients and states, or also the weights, are sharded over the processes."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.optim.state import OptimizerStates
from cogvx_exp.strategies.deepspeed_config import buffer_sizes, no_steps
from cogvx_exp.strategies.gathering import copy_for_main_process, for_main_process
from cogvx_exp.strategies.single import MakeOptimizer, OptimizerState, Strategy

MOMENTS = ("exp_avg", "exp_avg_sq")
"""State tensors of Adam and AdamW."""


class DeepSpeed(Strategy):
    """DeepSpeed ZeRO: stage 2 shards gradients and states, stage 3 also the weights.

    Args:
        transformer: the trainable model; on the host for stage 3, which shards it weight by weight.
        make_optimizer: builds the optimizer (Adam or AdamW).
        accelerator: for device and dtype.
        stage: 2 or 3.
        offload: whether states are kept on the host.
    """

    gathers = True

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        make_optimizer: MakeOptimizer,
        accelerator: Accelerator,
        stage: int,
        offload: bool = False,
    ):
        # Imported late: it does not exist for other systems than Linux (pyproject.toml), and is slow to import.
        import deepspeed

        # None of DeepSpeed's own operations for communication: it would try a compiler on each of them, and on CPUs
        # compile an all_reduce that waits in busy loops. DeepSpeedCPUAdam does not look here.
        deepspeed.ops.__compatible_ops__ = {}
        self.transformer, self.accelerator = transformer, accelerator
        self._stage = stage
        self._last = True
        optimizer = make_optimizer(trainable_parameters(transformer))
        if offload:
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            # With offload, DeepSpeed refuses any other class (`zero_force_ds_cpu_optimizer`).
            optimizer = DeepSpeedCPUAdam(optimizer.param_groups, adamw_mode=isinstance(optimizer, torch.optim.AdamW))
        zero: dict[str, Any] = {"stage": stage, **buffer_sizes(transformer, stage)}
        if offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": accelerator.device.type == "cuda"}
        config = {
            # Required, although only DeepSpeed's own data loader and throughput log use it.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the training loop decides which pass ends a step
            "zero_optimization": zero,
            "bf16": {"enabled": accelerator.mixed_precision == "bf16"},
            "gradient_clipping": 0.0,  # set in `step`
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,  # no log lines
        }
        if accelerator.device.type == "cuda":
            # DeepSpeed uses this number as the GPU's index, which may not exist: Slurm can show each task only its own
            # GPU.
            os.environ["LOCAL_RANK"] = str(accelerator.device.index)
        if stage == 3:
            _split(transformer, accelerator, config)
        # The process group exists already, with our timeouts; DeepSpeed would create one with its own.
        self._engine, self._zero, _, _ = deepspeed.initialize(
            model=transformer, optimizer=optimizer, config=config, dist_init_required=False
        )
        # A wrong key in the configuration would silently mean stage 0.
        assert self._engine.zero_optimization_stage() == stage
        self.model = self._engine
        self.optimizer = self._zero.optimizer  # the schedule sets the learning rate in it

    def autocast(self) -> AbstractContextManager[None]:
        """No autocast: DeepSpeed keeps the whole model in the dtype it computes in."""
        return nullcontext()

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Tells DeepSpeed which pass completes a step's gradients."""
        self._last = last
        # Set in advance, because ZeRO-2 reduces gradients from hooks in the backward pass.
        self._engine.set_gradient_accumulation_boundary(last)
        return nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulates the gradients of a loss."""
        self._engine.backward(loss)
        if not self._last:
            self._engine.step()  # counts the pass

    def clip(self, max_norm: float | None) -> None:
        """Sets the maximum norm; DeepSpeed clips in its own step."""
        # On the ZeRO optimizer, as the configuration is read only once; 0 turns clipping off.
        self._zero.clip_grad = max_norm or 0.0

    def step(self) -> float:
        """Clips the gradients, steps the weights, frees the gradients. Returns the norm before clipping."""
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained weights by name."""
        trained = trainable_parameters(self.transformer)
        # With ZeRO-3 a weight's own shape is (0,) between passes.
        return {name: tuple(getattr(weight, "ds_shape", weight.shape)) for name, weight in trained.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, in float32, gathered on the host."""
        from deepspeed.utils import safe_get_full_fp32_param

        trained = trainable_parameters(self.transformer)
        # The float32 master weights: the bfloat16 copies would lose what a resumed run needs.
        return {name: for_main_process(safe_get_full_fp32_param(weight)) for name, weight in trained.items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Loads trained weights, both the float32 master weights and those used for computation."""
        from deepspeed.utils import safe_set_full_fp32_param

        for name, parameter in trainable_parameters(self.transformer).items():
            weight = weights[name].to(self.accelerator.device)
            safe_set_full_fp32_param(parameter, weight)
            # The master weights alone are not enough: the copy used for computation is only updated by the next step.
            with torch.no_grad(), self._gathered(parameter, changed=True):
                parameter.copy_(weight)

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state in the format of torch's Adam, gathered on the host."""
        from deepspeed.utils import safe_get_full_optimizer_state

        parameters = list(trainable_parameters(self.transformer).values())
        # DeepSpeed counts steps per flat partition; torch's format has a counter per parameter.
        step = torch.tensor(float(self._steps()))
        states = {
            number: {"step": step.clone()}
            | {key: for_main_process(safe_get_full_optimizer_state(parameter, key)) for key in MOMENTS}
            for number, parameter in enumerate(parameters)
        }
        # The configuration rules make sure that there is one group only.
        groups = [{key: value for key, value in group.items() if key != "params"} for group in self._zero.param_groups]
        return {"state": states, "param_groups": [groups[0] | {"params": list(states)}]}

    def load_optimizer_state(self, learned: OptimizerStates) -> None:
        """Loads the learned state of an optimizer of the same class, each process its shard; settings are kept."""
        from deepspeed.utils import safe_set_full_optimizer_state

        if not learned.states:
            return  # the first step creates new ones
        self._make_states()
        for name, parameter in trainable_parameters(self.transformer).items():
            values = learned.states[name]
            for key in MOMENTS:
                safe_set_full_optimizer_state(parameter, values[key].to(self.accelerator.device), key)
        self._set_steps(float(next(iter(learned.states.values()))["step"]))

    def _make_states(self) -> None:
        """Creates the optimizer's states before the first step.

        Adam creates them lazily in its first step, and DeepSpeed's `safe_set_full_optimizer_state` can only write
        states that exist. There is no public way to create them, hence the private attributes: ZeRO runs Adam on flat
        float32 partitions, in attributes that differ between stages 2 and 3, and stage 2 also keeps a mapping from
        parameters to partitions.
        """
        split = self._stage == 3
        for flat in self._zero.fp32_partitioned_groups_flat if split else self._zero.single_partition_of_fp32_groups:
            moments = {key: torch.zeros_like(flat, dtype=torch.float32) for key in MOMENTS}
            self.optimizer.state[flat] = {"step": no_steps(self.optimizer, flat), **moments}
        if not split:
            self._zero._lazy_init_hp_params_optimizer_state()

    def _gathered(self, parameter: torch.Tensor, *, changed: bool = False) -> AbstractContextManager[Any]:
        """Makes a weight sharded by ZeRO-3 whole inside the block. `changed`: keep changes made to it."""
        from deepspeed.runtime.zero import GatheredParameters

        split = hasattr(parameter, "ds_id")
        context: AbstractContextManager[Any]
        context = GatheredParameters([parameter], modifier_rank=0 if changed else None) if split else nullcontext()
        return context

    def _states(self) -> Iterable[dict[str, Any]]:
        return self._zero.optimizer.state.values()

    def _steps(self) -> float:
        return max((float(state["step"]) for state in self._states() if "step" in state), default=0.0)

    def _set_steps(self, steps: float) -> None:
        for state in self._states():
            counter = state.get("step")
            # Of the same kind as before: CPUAdam passes the number to C++, fused Adam reads it on the device.
            state["step"] = torch.full_like(counter, steps) if isinstance(counter, torch.Tensor) else int(steps)

    def full_model(self) -> CogVideoXTransformer3DModel:
        """The transformer with full weights, on the host of the first process."""
        # ZeRO-2 keeps the whole model in every process.
        if self._stage < 3:
            return self.transformer
        weights = {}
        for name, value in self.transformer.state_dict(keep_vars=True).items():
            with self._gathered(value):
                weights[name] = for_main_process(value.detach())
        return copy_for_main_process(self.transformer, weights)


def _split(transformer: CogVideoXTransformer3DModel, accelerator: Accelerator, config: dict[str, Any]) -> None:
    """Shards a model on the host weight by weight: `deepspeed.initialize` would move all of it to the device first.

    Weights must already have the dtype of the computation, and buffers are not moved
    (deepspeed/runtime/engine.py, `_configure_distributed_model`).
    """
    from deepspeed.runtime.zero import Init

    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    for parameter in transformer.parameters():
        parameter.data = parameter.data.to(dtype)
    for buffer in transformer.buffers():
        buffer.data = buffer.data.to(accelerator.device)
    Init(module=transformer, config_dict_or_path=config, dtype=dtype)
