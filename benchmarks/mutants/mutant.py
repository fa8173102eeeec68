"""What a mutant is."""

from dataclasses import dataclass

from tests.mutation import Fault


@dataclass(frozen=True)
class Mutant(Fault):
    """Code that ignores a setting: in a file of the package, one text for another."""

    test: str
    """The test that should notice, below tests/."""
