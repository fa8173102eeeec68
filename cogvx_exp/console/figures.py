"""matplotlib without a display, imported only when needed because it takes half a second."""

from types import ModuleType


def pyplot() -> ModuleType:
    """`matplotlib.pyplot` with the file backend."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot
