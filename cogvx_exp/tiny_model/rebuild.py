"""`python -m cogvx_exp.tiny_model.rebuild FOLDER`: trains the tiny models from scratch, in an hour or two.

The autoencoder has its own script (train_vae.py); the transformers are trained by `cogvx_exp.train method=sft`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvx_exp.console.quiet import quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """Trains all weights. Parts that exist in the folder are skipped."""
    parser = argparse.ArgumentParser(prog="python -m cogvx_exp.tiny_model.rebuild", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder for intermediate results and the weights")
    folder = parser.parse_args(argv).folder
    quiet_libraries()
    from cogvx_exp.tiny_model.train import rebuild

    rebuild(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
