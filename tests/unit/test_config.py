"""What a user sees of the configuration: names, values, rules, documentation."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hydra import compose, initialize_config_dir
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cogvx_exp.config.command_line.flags import FLAGS
from cogvx_exp.config.command_line.quoting import readable
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import GenerateJob, PrepareJob, TrainJob
from cogvx_exp.config.schema.data import Source
from cogvx_exp.config.typed import typed
from cogvx_exp.train import main
from tests.conftest import MakeJob


def refused(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """The message for a configuration that is refused."""
    assert main(list(overrides)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1e-4", "did you mean optim.lr?"),
        ("lr=1e-4", "did you mean optim.lr?"),
        ("+optim.lrr=1e-4", "did you mean optim.lr?"),
        ("+optimizer.lr=1e-4", "did you mean optim.lr?"),
        ("optim.kwargs.amsgrad=true", "write +optim.kwargs.amsgrad=true"),
        ("optim.kwargs={amsgrad:true}", "write +optim.kwargs={amsgrad:true}"),
        ("learning_rate=1e-4", "the flag --learning_rate is now optim.lr"),
        ("model=5bb", "did you mean 5b?"),
        ("optim=adamw,sgd", "optim can be adafactor, adam,"),
        ("data.dataset_file=a.csv", "only for data=csv or data=hub or data=jsonl"),
        ("lr_scheduler.power=2", "only for lr_scheduler=polynomial"),
        ("steps=-3", "steps=-3  must be greater than 0"),
        ("steps=many", "must be a whole number above 0"),
        ("optim.betas=[0.9]", "at least 2 items"),
        ("validation.num_videos=0", "validation.num_videos=0  must be greater than 0"),
        ("model.dtype=int8", "must be auto, float32, float16 or bfloat16"),
        ("device=gpu", "device=gpu"),
        ("data.frame_buckets=[8]", "takes 8N+1 frames, 9 to 49; nearest: 9 or 17"),
        ("model=5b data.height_buckets=[100]", "must be a multiple of 16 pixels; nearest: 96 or 112"),
        ("model=5b validation.width=100", "nearest: 96 or 112"),
        ("data=files", "data.root=null  set it to the folder"),
        ("data=mix", "list the sources"),
        ("data=custom data.root=x", "data.reader=null  data=custom needs your function"),
        ("data=mix 'data.sources=[{source: csv}]'", "data.sources[0].root=null"),
        ("data.reshape=random", "add data.encode=online"),
        ("data.holdout=1.5", "a fraction must be from 0 to below 1"),
        ("data=latents data.root=x data.encode=online", "has no videos to encode"),
        ("model.weights=pretrained", "set model.path"),
        ("hydra.run.dir=x", "set run_dir=FOLDER"),
        ("optim=cpu_offload gradient_accumulation=2", "or optim.offload_gradients=false"),
        ("optim.release_gradients=true gradient_accumulation=2", "released gradients cannot be accumulated"),
        ("optim.release_gradients=true", "max_grad_norm=1  weights are stepped"),
        ("optim=cpu_offload model.dtype=float16", "add model.dtype=bfloat16"),
        ("optim=ao_adamw optim.stochastic_rounding=true", "computes in float32; add model.dtype=bfloat16"),
        ("optim.stochastic_rounding=true", "only for optim=ao_adamw or"),
        ("method=sft memory=12gb", "trains the blocks"),
        ("memory=12gb quant=nf4", "choose one"),
        ("memory.stream_blocks=true", "memory.activations=keep  streamed blocks must be recomputed"),
        ("quant=int8 method=sft", "only for method=lora or lora_ff, not sft"),
        ("quant=nf4 method.init=pissa", "use default"),
        ("model.name=${nothing}", "nothing"),
        ("a=b=c", "cannot be read"),
        ("=", "cannot be read"),
        ("~model.path", "model.path"),
    ],
)
def test_a_issue_says_what_to_change(capsys: pytest.CaptureFixture[str], override: str, message: str) -> None:
    multirun = ["-m"] if override == "optim=adamw,sgd" else []
    assert message in refused(capsys, *multirun, *shlex.split(override))


def test_a_section_that_can_be_enabled_is_so_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile=true", "profile.record=5", "--cfg", "job", "--package", "profile"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {"enabled": True, "skip": 3, "warmup": 1, "record": 5}
    assert readable("profile=true,false", TrainJob) == "profile.enabled=true,false"
    assert readable("compile=true", TrainJob) == "compile=true"


def test_all_errors_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["model=5c", "optim.lrr=1", "+foo=2", "steps=0", "optim.eps=x", "task=i2v", "validation.height=7"]
    first, *lines = refused(capsys, *settings).strip().splitlines()
    assert "7 settings" in first
    assert [line.split()[0] for line in lines] == settings


def test_split_runs_refuse_what_cannot_be_split_only(capsys: pytest.CaptureFixture[str], make_job: MakeJob) -> None:
    message = refused(capsys, "distributed=fsdp", "method=sft", "optim=adafactor")
    assert "optim=adafactor  distributed=fsdp shards every weight, and this optimizer needs whole weights" in message
    assert "ao_adamw8bit" in message
    message = refused(capsys, "distributed=zero3", "ema_decay=0.9", "optim=ao_adamw")
    assert "distributed=zero3 keeps the float32 weights in its own buffers" in message
    assert "optim=ao_adamw" in message
    make_job("distributed=fsdp", "optim=adamw8bit")  # an adapter is not split
    make_job("distributed=fsdp", "method=sft", "optim=ao_adamw8bit", "ema_decay=0.9", "max_grad_norm=0.5")


def test_a_source_of_a_mix_has_the_defaults_of_its_form(make_job: MakeJob) -> None:
    forms = get_args(Source.model_fields["source"].annotation)
    more = {"custom": ", reader: {target: numpy.load}"}
    sources = ", ".join(f"{{source: {form}, root: x{more.get(form, '')}}}" for form in forms)
    mixed = make_job("data=mix", f"data.sources=[{sources}]").data
    for form, source in zip(forms, mixed.all_sources(), strict=True):
        reader = ["+data.reader.target=numpy.load"] if form == "custom" else []
        (alone,) = make_job(f"data={form}", "data.root=x", *reader).data.all_sources()
        assert source == alone, form
    assert mixed.all_sources()[0].drawn == (9, 96, 96)
    (given,) = make_job("data=mix", "data.sources=[{source: csv, root: x, dataset_file: y}]").data.all_sources()
    assert (given.dataset_file, given.caption_column) == ("y", "caption")


def test_a_refused_run_leaves_nothing(capsys: pytest.CaptureFixture[str], in_tmp: Path) -> None:
    refused(capsys, "steps=-1")
    refused(capsys, "distributed=zero2", "quant=nf4", "method=sft")
    assert list(in_tmp.iterdir()) == []


@pytest.mark.parametrize("arguments", ["--help", "--cfg job model=5b", "steps=-1 optim=nothing"])
def test_nothing_imports_torch_before_the_configuration_is_checked(arguments: str) -> None:
    program = (
        "import sys; from cogvx_exp.train import main\n"
        f"code = main({arguments.split()!r})\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == (2 if "steps=-1" in arguments else 0), done.stderr


def test_help_lists_groups_and_settings_with_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help", "model=2b"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"model +1.5-5b, 1.5-5b-i2v, 2b, 5b, 5b-i2v, tiny, tiny-1.5", out)
    assert "optim.lr=0.0001" in out
    assert "Peak learning rate." in out
    assert "data.dataset_file" not in out, "a setting of another choice"


def fields(section: type[BaseModel] | BaseModel, prefix: str = "") -> Iterator[tuple[str, object, FieldInfo]]:
    schema = section if isinstance(section, type) else type(section)
    for name, field in schema.model_fields.items():
        value = getattr(section, name, None)
        if isinstance(value, BaseModel):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field


def composed(config: str, schema: type[BaseModel], *overrides: str) -> BaseModel:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(compose(config, list(overrides)), schema)  # type: ignore[type-var]


UNSTATED = ("model.", "data.source", "generate.prompts", "generate.strength", "caption.instruction")
UNSTATED += ("validation.scores", "generate.scores")
"""Settings whose descriptions do not state a default."""


@pytest.mark.parametrize(
    ("config", "schema"), [("train", TrainJob), ("prepare", PrepareJob), ("generate", GenerateJob)]
)
def test_every_setting_is_documented_and_its_default_is_true(config: str, schema: type[BaseModel]) -> None:
    overrides = ["model=5b"] + (["data=files"] if config != "generate" else [])
    stated = 0
    for name, value, field in fields(composed(config, schema, *overrides)):
        assert field.description, f"{name} has no docstring"
        default = re.search(r"Default: (.+)\.$", " ".join(field.description.split()))
        of_another_choice = value is None and not field.is_required()
        if default and not of_another_choice:
            stated += 1
            actual = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
            assert actual == yaml.safe_load(default[1]), name
        elif not of_another_choice:
            assert name.startswith(UNSTATED), name
    assert stated > {"train": 60, "prepare": 30, "generate": 12}[config]


def test_every_new_name_of_a_flag_exists() -> None:
    known = {name for name, _, _ in fields(composed("train", TrainJob, "model=5b", "data=files"))}
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    for setting in FLAGS.values():
        first = re.split(r"[ =(\[]", setting)[0]
        assert first in known | groups | {
            "model",
            "task.condition_dropout",
            "lr_scheduler.power",
            "optim.offload_gradients",
        } | {"distributed.timeout"}, setting
