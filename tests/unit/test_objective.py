"""The objective against formulas written out in float64."""

import numpy as np
import pytest
import torch

from cogvx_exp.config.schema import Objective as Settings
from cogvx_exp.core.errors import UserError
from cogvx_exp.diffusion.objective import Objective, add_noise, build_objective
from cogvx_exp.model.build import SCHEDULERS

TIMESTEPS = [0, 1, 500, 999]
PARTS = {"timesteps": "always_seven", "weighting": "weight_by_signal", "error": "one_half"}


def alphas_cumprod_float64(snr_shift: float) -> np.ndarray:
    """The CogVideoX noise schedule, from its definition: scaled-linear betas, shifted signal-to-noise
    ratio, then the square roots moved and stretched so that the last step has no signal."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = np.cumprod(1 - betas)
    alphas = alphas / (snr_shift + (1 - snr_shift) * alphas)
    roots = np.sqrt(alphas)
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    return roots**2


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("snr_shift", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_equals_weighted_error_of_the_clean_latent(sampler: str, snr_shift: float, dtype: torch.dtype) -> None:
    scheduler = SCHEDULERS[sampler](
        snr_shift_scale=snr_shift,
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=True,
        prediction_type="v_prediction",
    )
    generator = torch.Generator().manual_seed(0)
    latents, noise, prediction = (torch.randn(4, 3, 4, 6, 8, generator=generator) for _ in range(3))
    # The inputs are rounded to the type first: what follows must not lose more.
    latents, noise, prediction = (tensor.to(dtype) for tensor in (latents, noise, prediction))
    alphas = scheduler.alphas_cumprod[TIMESTEPS]

    noisy = add_noise(latents, noise, alphas)
    loss = Objective().loss(prediction, latents, noise, alphas)

    x, e, v = (tensor.double().numpy() for tensor in (latents, noise, prediction))
    for i, timestep in enumerate(TIMESTEPS):
        a = alphas_cumprod_float64(snr_shift)[timestep]
        expected_noisy = np.sqrt(a) * x[i] + np.sqrt(1 - a) * e[i]
        np.testing.assert_allclose(noisy[i].double().numpy(), expected_noisy, atol=1e-5)
        clean = np.sqrt(a) * expected_noisy - np.sqrt(1 - a) * v[i]
        expected_loss = np.mean((clean - x[i]) ** 2) / (1 - a)
        assert loss[i].item() == pytest.approx(expected_loss, rel=1e-5)


def test_each_part_of_the_objective_can_be_replaced() -> None:
    settings = Settings(**{part: f"tests.objectives.{name}" for part, name in PARTS.items()})
    objective = build_objective(settings)
    assert objective.timesteps(1000, torch.Generator()) == 7
    zeros, alphas = torch.zeros(2, 1, 1, 1, 1), torch.tensor([0.25, 1.0])
    torch.testing.assert_close(objective.loss(zeros, zeros, zeros, alphas), torch.tensor([0.125, 0.5]))


def test_a_part_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(UserError, match=r"objective\.error=nowhere\.at_all cannot be imported"):
        build_objective(Settings(error="nowhere.at_all"))
