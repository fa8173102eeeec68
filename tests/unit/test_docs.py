"""The pages say what is true: commands, settings, links, messages, figures."""

import ast
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from benchmarks.gpu.docs import MEASURED_PAGES, RATIOS, write_docs
from benchmarks.gpu.results import FOLDER, Results
from cogvx_exp.config.command_line.flags import FLAGS
from cogvx_exp.config.schema import GenerateJob, PrepareJob, TrainJob
from tests.doc_pages import FENCE, PAGES, ROOT, Command, check_configuration, commands
from tools.config_reference import BEGIN, PAGE, groups, reference

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:cogvx_exp|conf|tests|benchmarks|tools|docs|multirun_examples)/[\w./-]*)`")
NAMED = ("optim.kwargs.", "data.control_kwargs.", "validation.scores.", "generate.scores.")
"""Sections below which the names are those of functions and their arguments."""
EXECUTED = ("extending.md",)
"""Pages whose commands are run (tests/integration/test_docs.py)."""
ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
CONFIGURED = {
    tuple(command.arguments): command
    for command in ALL
    if command.entry and command.overrides and not command.output and command.page.name not in EXECUTED
}
OTHERS = [command for command in ALL if not command.entry]


def test_every_configuration_is_possible(in_tmp: Path) -> None:
    """One test for all, since what takes time is shared: the composition of the groups."""
    assert len(CONFIGURED) > 40
    Path("prompts.txt").write_text("a panda\n")
    for command in CONFIGURED.values():
        try:
            check_configuration(command, in_tmp)
        except Exception as error:
            pytest.fail(f"{command}\n{error}")


@pytest.mark.parametrize("command", [command for command in ALL if command.output], ids=str)
def test_a_refusal_is_printed_as_the_page_shows_it(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    from cogvx_exp.train import main

    assert command.program == "cogvx_exp.train"
    assert main(command.arguments) == 2
    assert capsys.readouterr().err == command.output


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_every_other_program_exists(command: Command) -> None:
    if command.words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in command.words[1:] if "=" not in word} <= set(targets)
    elif command.words[0] == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in re.findall(r"\[([\w,]+)\]", " ".join(command.words)):
            assert set(extra.split(",")) <= project["optional-dependencies"].keys()
    else:
        text = _source(command).read_text(encoding="utf-8")
        options = [word for word in command.arguments if word.startswith("--")]
        assert [option for option in options if f'"{option}"' not in text] == []


def _source(command: Command) -> Path:
    """The file that a command runs."""
    if command.words[0] in ("python", "torchrun") and "-m" in command.words:
        module = ROOT / command.program.replace(".", "/")
        return module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    assert command.words[0] in ("python", "sbatch"), f"{command}: no test knows this kind of command"
    path = Path(command.words[1])
    shown = re.search(rf"^# {re.escape(path.name)}\n", command.page.read_text(encoding="utf-8"), re.MULTILINE)
    return command.page if shown else ROOT / path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in _anchors(path), f"{page.name} links to {target}"
    for name in CODE_PATH.findall(text):
        assert "NAME" in name or (ROOT / name).exists(), f"{page.name} names {name}"


def _anchors(page: Path) -> set[str]:
    """As GitHub and MkDocs make them from headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_reference_of_settings_is_that_of_the_schema() -> None:
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].lstrip("\n")
    assert written == reference(), "run: python -m tools.config_reference"
    for group, choices in groups().items():
        assert all(f"| `{group}={choice}` |" in written and text for choice, text in choices.items()), group
    for schema in (TrainJob, PrepareJob, GenerateJob):
        for name in schema.model_fields:
            assert f"`{name}" in written, name


def test_every_setting_that_is_named_exists() -> None:
    known = set(re.findall(r"^\| `([\w.]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    known |= {name.rpartition(".")[0] for name in known}
    sections = {name.partition(".")[0] for name in known if "." in name}
    for page in PAGES:
        if page.name == "mutants.md":  # generated, with code; test_mutants.py holds its settings
            continue
        named = re.findall(r"`[+']*(\w+(?:\.\w+)+)\*?(?:[=\[' ][^`]*)?`", page.read_text(encoding="utf-8"))
        settings = {name for name in named if name.partition(".")[0] in sections and not name.endswith(".yaml")}
        unknown = {name for name in settings - known if not name.startswith(NAMED)}
        assert not unknown, f"{page.name} names {unknown}"


def test_every_old_flag_has_its_setting() -> None:
    table = (ROOT / "docs" / "migrating-from-cogvideox-factory.md").read_text(encoding="utf-8")
    assert [flag for flag, setting in FLAGS.items() if f"| `--{flag}` | `{setting}` |" not in table] == []


def test_every_example_sweep_is_listed() -> None:
    page = (ROOT / "docs" / "sweeps-and-reports.md").read_text(encoding="utf-8")
    for path in (ROOT / "multirun_examples" / "sweep").glob("*.yaml"):
        assert f"| `{path.stem}` |" in page


def test_messages_are_those_of_the_program() -> None:
    """The first cells of the tables quote messages: `...`, N and M stand for what is filled in."""
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 40
    texts = "\n\n".join(_texts())
    patterns = {text: ".*".join(re.escape(part) for part in re.split(r"\.\.\.|\b[NM]\b", text)) for text in quoted}
    assert [text for text, pattern in patterns.items() if not re.search(pattern, texts)] == []


def _texts() -> list[str]:
    """Every text in the package, with a blank sign for what is filled into it."""
    found = []
    for path in (ROOT / "cogvx_exp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                found.append("".join(parts).replace("\n", " "))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def _tables(page: str) -> list[dict[str, str]]:
    """Rows of all tables of a page of docs/ whose first cell has settings, by the text of the header."""
    rows, header = [], []
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip(" *") for cell in line.split("|")[1:-1]]
        if not cells:
            header = []
        elif not header:
            header = cells
        elif cells[0].startswith("`"):
            rows.append(dict(zip(header, cells, strict=True)) | {"settings": cells[0].split("`")[1]})
    return rows


def _same(settings: str) -> frozenset[str]:
    return frozenset(settings.split())


def test_the_readme_has_the_predicted_and_measured_figures() -> None:
    rounded = [["before validation", "after validation", "measured with"]]
    rounded += [["without: predicted", "with: predicted", "with: measured"]]
    figures = {
        _same(row["settings"]): [f"{float(row[name]):.1f}" if row[name] else "" for name in names]
        for row in _tables("memory.md")
        for names in rounded
        if names[0] in row
    }
    seconds = {_same(row["settings"]): row.get("s per step") for row in _tables("measured.md")}
    rows = re.findall(r"^\| `(model=[^`]+)` \| [\d.]+ \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 6
    for settings, cells in rows:
        *written, time, _ = [cell.strip() for cell in cells.split("|")]
        assert written == figures[_same(settings)], settings
        assert time == (f"{float(found):.1f}" if (found := seconds.get(_same(settings))) else ""), settings


def test_measured_pages_are_those_of_the_results(tmp_path: Path) -> None:
    for name in MEASURED_PAGES:
        shutil.copy(ROOT / "docs" / name, tmp_path)
    write_docs(Results(FOLDER), tmp_path)
    for name in MEASURED_PAGES:
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert page == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run: python -m benchmarks.gpu --docs"
    ratios = {row["settings"]: row["GPU"] for row in _tables("speed.md") if row.get("GPU")}
    assert ratios["memory.activations=checkpoint"] == "1.00"
    assert ratios.keys() >= RATIOS.keys() - {"compile=blocks"}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150
