"""A process that runs one command imports what that command uses."""

import subprocess
import sys
from pathlib import Path

from benchmarks.start import start
from cogvx_exp.model.load import pipeline_folder
from tests.conftest import MakeJob
from tests.entry import with_twin

UNUSED = {
    *("bitsandbytes", "torchao", "scipy", "pandas", "deepspeed", "tensorboard", "wandb"),
    *("diffusers.models.transformers.transformer_flux", "diffusers.models.autoencoders.autoencoder_kl_wan"),
    *("matplotlib.pyplot", "cogvx_exp.profiling.recorder", "torch._inductor.compile_fx"),
}


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plain_run_imports_nothing_unused_until_its_first_step(
    make_job: MakeJob, shared_cache: Path, tmp_path: Path
) -> None:
    pipeline_folder(make_job().model, shared_cache)  # writing a model imports deepspeed, through accelerate
    settings = with_twin(["steps=1", "validation=none", "data.workers=0", "device=cpu", f"cache_dir={shared_cache}"])
    modules = start(settings, str(tmp_path)).modules
    assert {"torch", "diffusers", "peft", "cogvx_exp.training.loop"} <= modules
    assert sorted(modules & UNUSED) == []


def test_optimizers_of_packages_that_were_hidden_can_be_imported() -> None:
    run(
        "from cogvx_exp.core.imports import expect_one_command\n"
        "from cogvx_exp.console.quiet import quiet_libraries\n"
        "expect_one_command()\n"
        "quiet_libraries()\n"
        "from bitsandbytes.optim import AdamW8bit\n"
        "from torchao.optim import AdamW4bit\n"
    )


def test_a_quantized_base_finds_its_packages() -> None:
    run(
        "from cogvx_exp.core.imports import expect_one_command\n"
        "from cogvx_exp.console.quiet import quiet_libraries\n"
        "expect_one_command()\n"
        "quiet_libraries('nf4')\n"
        "import peft\n"
        "assert peft.tuners.lora.Linear4bit and peft.import_utils.is_torchao_available()\n"
    )


def test_models_that_are_not_imported_at_the_start_can_be() -> None:
    run(
        "from cogvx_exp.core.imports import import_libraries\n"
        "import_libraries()\n"
        "from diffusers.models.transformers import FluxTransformer2DModel as flux\n"
        "from diffusers.models import transformers as package, CogVideoXTransformer3DModel as ours\n"
        "import diffusers\n"
        "assert diffusers.FluxTransformer2DModel is flux and 'PixArtTransformer2DModel' in dir(package)\n"
        "assert package.CogVideoXTransformer3DModel is diffusers.CogVideoXTransformer3DModel is ours\n"
        "assert diffusers.UNet2DModel and diffusers.AutoencoderKL and diffusers.models.autoencoders.AutoencoderKL\n"
        "assert not hasattr(package, 'nothing')\n"
    )


def test_metadata_of_packages_is_read_when_it_is_asked_for() -> None:
    run(
        "from cogvx_exp.core.imports import import_libraries\n"
        "import_libraries()\n"
        "from diffusers.utils.import_utils import _is_distribution_installed\n"
        "assert _is_distribution_installed('cv2')[0] and not _is_distribution_installed('no_such_package')[0]\n"
    )
