"""The exponential moving average (EMA) of the trained weights, `ema_decay`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel

from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.strategies.single import Strategy


class Ema:
    """diffusers' EMA of the weights of a strategy, of which each process keeps its shard."""

    def __init__(self, strategy: Strategy, decay: float):
        self._strategy = strategy
        self._decay = decay
        self._model = EMAModel(trainable_parameters(strategy.transformer).values(), decay=decay)

    def update(self) -> None:
        """Includes the current weights, after a step."""
        self._model.step(trainable_parameters(self._strategy.transformer).values())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Uses the averaged weights inside the block."""
        parameters = list(trainable_parameters(self._strategy.transformer).values())
        # diffusers keeps the stored weights on the host, so the device needs no room for both.
        self._model.store(parameters)
        self._model.copy_to(parameters)
        try:
            yield
        finally:
            self._model.restore(parameters)

    def state(self) -> dict[str, Any]:
        """The whole state; with shards, only the main process has all weights."""
        state: dict[str, Any] = self._model.state_dict()
        return state | {"shadow_params": self._strategy.gathered(self._model.shadow_params)}

    def load(self, saved: dict[str, Any] | None) -> list[str]:
        """Loads a saved state, or starts from the current weights and returns a note."""
        if not saved:
            self._model = EMAModel(trainable_parameters(self._strategy.transformer).values(), decay=self._decay)
            return [f"ema_decay={self._decay}: the EMA starts from the checkpoint's weights"]
        # EMAModel ignores None, so the tensors are set below, on the right device and as shards.
        self._model.load_state_dict(saved | {"shadow_params": None})
        self._model.shadow_params = self._strategy.placed(saved["shadow_params"])
        self._model.decay = self._decay  # the current setting, not the checkpoint's
        return []
