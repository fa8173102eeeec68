"""docs/mutants.md."""

from pathlib import Path

from benchmarks.mutants.results import read_results
from benchmarks.mutants.table import MUTANTS, reason, settings

PAGE = Path(__file__).parents[2] / "docs" / "mutants.md"
HEADER = """\
# Would a test notice?

Written by `python -m benchmarks.mutants`. For each setting, the code that reads it is changed so that it ignores the
setting, and the test that is named must fail. A unit test holds that each setting of `train`, `prepare` and `generate` is
in one of the two tables.

{noticed} of {count} mutants are noticed.

| setting | file | the code | ignores it as | test | result |
|---|---|---|---|---|---|
"""


def write_page() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The page in Markdown."""
    results = read_results()
    words = {key: "noticed" if result.noticed else "**not noticed**" for key, result in results.items()}
    rows = "".join(
        f"| `{key}` | `{mutant.file}` | {_code(mutant.before)} | {_code(mutant.after)} | `{mutant.test.replace('::', ' ')}` "
        f"| {words.get(key, 'not tried')} |\n"
        for key, mutant in MUTANTS.items()
    )
    noticed = sum(result.noticed for result in results.values())
    without = {key: why for key in settings() if key not in MUTANTS and (why := reason(key))}
    grouped: dict[str, list[str]] = {}
    for key, why in without.items():
        grouped.setdefault(why, []).append(f"`{key}`")
    reasons = "".join(f"| {', '.join(keys)} | {why} |\n" for why, keys in grouped.items())
    header = HEADER.format(noticed=noticed, count=len(MUTANTS))
    return f"{header}{rows}\n## Settings without a mutant\n\n| settings | why |\n|---|---|\n{reasons}"


def _code(text: str) -> str:
    shown = " ".join(text.split()).replace("|", "\\|")
    return f"`{shown}`" if shown else "(removed)"
