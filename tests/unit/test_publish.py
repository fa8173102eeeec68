"""What is published names nothing of this machine, and what users wrote cannot break it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.model.build import build_transformer
from cogvx_exp.runs.run_folder import LORA_FILE, RunFolder
from cogvx_exp.tracking.pictures.preview import PREVIEW
from cogvx_exp.tracking.publish import publish
from cogvx_exp.tracking.scrub import hub_name, is_local
from cogvx_exp.training.export import export
from tests.conftest import MakeJob
from tests.entry import train

PROMPTS = [
    "a | b || c",
    "two\nlines\r\nand a\ttab",
    "`code` and ``` fences",
    "<script>alert(1)</script> <img src=x> & &lt;",
    "--- starts like a rule",
    "# [x](y) *bold* _it_ ~~no~~ ![i](j) \\ $a$",
    "{{ 7 * 7 }} {% raw %}",
    "ein Bär, 熊",
]


def dry_run(job: TrainJob, folder: Path, prompts: list[str] = PROMPTS) -> Path:
    """The folder that a finished run would push."""
    run = RunFolder(folder)
    job = job.model_copy(update={"run_dir": folder, "hub": job.hub.model_copy(update={"dry_run": True})})
    run.start(job, [])
    run.export.mkdir()
    (run.export / LORA_FILE).write_bytes(b"weights")
    (run.export / "config.json").write_text(json.dumps({"_name_or_path": str(folder / "base"), "num_layers": 2}))
    run.validation(3).mkdir(parents=True)
    for number, prompt in enumerate(prompts):
        video = run.validation(3) / f"{number:02d}-bär.mp4"
        video.write_bytes(b"video")
        video.with_suffix(".json").write_text(json.dumps({"prompt": prompt}))
    (folder / PREVIEW).write_bytes(b"moves")
    summary = {"steps": 3, "clips": "8 clips"}
    (folder / "summary.json").write_text(json.dumps(summary))
    return publish(job, run, {})


def parts(card: str) -> tuple[dict, str]:
    """The card's front matter and its text as HTML."""
    found = re.fullmatch(r"---\n(.*?)\n---\n(.*)", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1]), MarkdownIt("commonmark").enable("table").render(found[2])


def test_prompts_stand_in_the_card_as_they_were_written(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("data.id_token='a `tick` <b>'")
    card = (dry_run(job, tmp_path / "run") / "README.md").read_text()
    front, html = parts(card)
    assert front["library_name"] == "diffusers"
    rows = re.findall(r"<tr>\n<td>(.*?)</td>\n<td><a href=\"(.*?)\">(.*?)</a></td>\n</tr>", html)
    assert len(rows) == len(PROMPTS), html
    for (cell, link, _), prompt in zip(rows, PROMPTS, strict=True):
        assert unescaped(cell) == " ".join(prompt.split())
        assert link.startswith("videos/")
    assert "Put <code>a `tick` &lt;b&gt;</code> at the start" in html
    assert html.count("<table>") == 2
    assert f'src="{PREVIEW}"' in html
    assert (tmp_path / "run" / "hub" / PREVIEW).read_bytes() == b"moves"


def unescaped(cell: str) -> str:
    import html

    assert "<" not in cell, "a prompt is text, not markup"
    return html.unescape(cell)


def test_no_local_path_is_published(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    secret = tmp_path / "home/secret"
    secret.mkdir(parents=True)
    job = make_job(
        *("model=tiny-5b-i2v", "task=i2v", "model.weights=pretrained", f"model.path={secret}/base"),
        *("data=mix", f"data.sources=[{{source: folder, root: {secret}/clips}}, {{source: hub, root: me/clips}}]"),
        *(f"method.init_from={secret}/lora", f"cache_dir={secret}/cache", f"run_dir={secret}/run"),
        *(f"validation.images=['{secret}/a.png','https://example.org/b.png']", f"resume={secret}/other"),
        *("validation.prompts=['/imagine a house','~ a dream','C: drive']", f"data.holdout=['{secret}/b.mp4']"),
        *(f"+optim.kwargs.file='{secret}/x'",),
    )
    hub = dry_run(job, secret / "run")
    published = [path for path in hub.rglob("*") if path.is_file()]
    assert {path.name for path in published} >= {"README.md", "config.yaml", "config.json", LORA_FILE}
    for path in published:
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert json.loads((hub / "config.json").read_text()) == {"_name_or_path": None, "num_layers": 2}
    config = yaml.safe_load((hub / "config.yaml").read_text())
    assert config["model"]["path"] is None
    assert [source["root"] for source in config["data"]["sources"]] == [None, "me/clips"]
    assert config["validation"]["images"] == ["https://example.org/b.png"]
    assert config["validation"]["prompts"] == ["/imagine a house", "~ a dream", "C: drive"]
    assert config["data"]["holdout"] == []
    TrainJob.model_validate(config)  # it still is a configuration
    front, html = parts((hub / "README.md").read_text())
    assert "base_model" not in front
    assert "huggingface.co" not in html
    assert 'from_pretrained("BASE_MODEL"' in (hub / "README.md").read_text()


def test_the_base_is_named_as_on_the_hub_or_not_at_all(make_job: MakeJob, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    cached = "/data/hub/models--THUDM--CogVideoX-5b/snapshots/8d6ea3f817438460b25595a120f109b88d5fdfad"
    model = make_job("model.weights=pretrained", "model.path=x/y").model
    for path, name in {
        "THUDM/CogVideoX-5b": "THUDM/CogVideoX-5b",
        cached: "THUDM/CogVideoX-5b",
        str(tmp_path / "model"): None,
        "/models/gone": None,
        "./models": None,
        "~/models": None,
    }.items():
        assert hub_name(model.model_copy(update={"path": path})) == name, path
    job = make_job("model.weights=pretrained", "model.path=THUDM/CogVideoX-5b")
    front, html = parts((dry_run(job, tmp_path / "run") / "README.md").read_text())
    assert front["base_model"] == "THUDM/CogVideoX-5b"
    assert 'href="https://huggingface.co/THUDM/CogVideoX-5b"' in html
    assert hub_name(make_job().model) is None, "random weights come from nowhere"


@pytest.mark.parametrize("text", ["/home/me/x.mp4", "~/clips", "~me/clips", "file:///x", r"C:\clips", r"\\server\x"])
def test_absolute_paths_are_known(text: str) -> None:
    assert is_local(text)


@pytest.mark.parametrize(
    "text", ["a / b", "https://x.org/home", "owner/name", "clips/a.mp4", "/imagine x", "~ 5", "A: x"]
)
def test_other_texts_are_kept(text: str) -> None:
    assert not is_local(text)


def test_a_whole_transformer_names_no_folder(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("method=sft")
    transformer = build_transformer(job.model)
    transformer.register_to_config(_name_or_path=str(tmp_path))
    folder = export(transformer, job.method, tmp_path / "export", transformer.dtype, {})
    assert str(tmp_path) not in (folder / "config.json").read_text()


def test_a_dry_run_alone_writes_the_folder(in_tmp: Path, shared_cache: Path, make_job: MakeJob, capsys) -> None:
    settings = ["run_dir=run", f"cache_dir={shared_cache}", "steps=1", "validation=none", "data.workers=0"]
    assert train([*settings, "hub.dry_run=true"]) == 0
    assert "Would be pushed: run/hub" in capsys.readouterr().out
    card = Path("run/hub/README.md").read_text()
    assert 'pipe.load_lora_weights("OWNER/NAME")' in card
    job = make_job()
    named = job.model_copy(update={"hub": job.hub.model_copy(update={"dry_run": True, "repo": "no name"})})
    assert check_train(named)[0].setting == "hub.repo=no name"
