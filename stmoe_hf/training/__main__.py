"""`python -m stmoe_hf.training` is `stmoe train`; so it starts under `accelerate launch -m stmoe_hf.training`."""

import sys

from .run import main

if __name__ == "__main__":
    sys.exit(main())
