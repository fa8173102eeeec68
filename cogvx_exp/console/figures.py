"""matplotlib for files, without a display; imported with the first picture, since it takes half a second."""

from types import ModuleType


def pyplot() -> ModuleType:
    """`matplotlib.pyplot` with the backend that draws into files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
