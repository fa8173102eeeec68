"""`python -m tests.software_cuda CASES OUTCOMES`: the process that runs cases, on the device."""

import sys
from pathlib import Path

if __name__ == "__main__":
    # Not at the top, since the decoding processes that a case spawns import this module, too.
    from tests.software_cuda.worker import main

    main(Path(sys.argv[1]), Path(sys.argv[2]))
