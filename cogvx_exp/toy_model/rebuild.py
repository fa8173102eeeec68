"""`python -m cogvx_exp.toy_model.rebuild FOLDER`: trains the tiny models from seeds, in an hour or two.

The autoencoder has a script of its own (train_vae.py); the denoisers are trained by `cogvx_exp.train method=sft`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cogvx_exp.console.quiet import quiet_libraries


def main(argv: Sequence[str] | None = None) -> int:
    """Makes all the weights. What is already in the folder is not made again."""
    parser = argparse.ArgumentParser(prog="python -m cogvx_exp.toy_model.rebuild", description=__doc__)
    parser.add_argument("folder", type=Path, help="for what is made on the way, and the weights in it")
    folder = parser.parse_args(argv).folder
    quiet_libraries()
    from cogvx_exp.toy_model.train import rebuild

    rebuild(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
