"""`python -m memsparse.training RECIPE.toml --out DIR`: run a recipe; run again to continue."""

import argparse
import logging
import sys
from pathlib import Path

from transformers.utils import logging as library_logging

from memsparse.errors import MemSparseError
from memsparse.training.config import TrainConfig
from memsparse.training.processes import is_first, leave
from memsparse.training.trainer import run

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    """Parse arguments and train; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m memsparse.training", description=__doc__)
    parser.add_argument("recipe", type=Path, help="TOML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; made if missing")
    parser.add_argument("--until", type=int, help="stop after this step")
    given = parser.parse_args(arguments)
    level = logging.INFO if is_first() else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    library_logging.disable_progress_bar()
    try:
        run(TrainConfig.read(given.recipe), given.out, until=given.until)
    except MemSparseError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
