"""Runs recipes one after the other in the process group that torchrun started: RECIPE OUT UNTIL, ..."""

import sys
from pathlib import Path

from memsparse.training.config import TrainConfig
from memsparse.training.processes import leave
from memsparse.training.trainer import run


def main() -> None:
    given = sys.argv[1:]
    for recipe, out, until in zip(given[::3], given[1::3], given[2::3], strict=True):
        run(TrainConfig.read(Path(recipe)), Path(out), until=int(until))
    leave()


if __name__ == "__main__":
    main()
