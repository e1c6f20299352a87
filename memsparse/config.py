"""Environment variables, all read here.

MEMSPARSE_CACHE    folder for what the package may make again at any time
MEMSPARSE_TIMEOUT  seconds a rank may take to answer another
OMP_WAIT_POLICY    of OpenMP's threads; set to passive by the command line where it is not set
WORLD_SIZE, RANK, LOCAL_RANK, LOCAL_WORLD_SIZE    set by torchrun
"""

import os
from pathlib import Path

from memsparse.errors import ConfigError


def let_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for one another, unless the environment says otherwise.

    Spinning threads gain nothing measurable on idle cores and take a hundred times as long on busy ones. Has
    no effect once torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cache_dir() -> Path:
    """Return the folder for files that can be made again; it need not exist yet.

    `MEMSPARSE_CACHE`, else `memsparse` under `XDG_CACHE_HOME`, else `~/.cache/memsparse`. An empty variable
    counts as unset.
    """
    if own := os.environ.get("MEMSPARSE_CACHE"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "memsparse"
    return Path.home() / ".cache" / "memsparse"


def rank_timeout() -> float:
    """Seconds a rank may take to answer another: `MEMSPARSE_TIMEOUT`, else 60.

    Raises: ConfigError if that is no time.
    """
    text = os.environ.get("MEMSPARSE_TIMEOUT") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"MEMSPARSE_TIMEOUT is {text!r}; set a number of seconds above 0")
    return seconds


def processes(*, here: bool = False) -> int:
    """How many processes torchrun started in all, or on this host; 1 without it."""
    count = os.environ.get("LOCAL_WORLD_SIZE" if here else "WORLD_SIZE", "")
    return max(int(count), 1) if count.isdecimal() else 1


def rank(*, here: bool = False) -> int:
    """Which of those processes this is, counted from 0."""
    place = os.environ.get("LOCAL_RANK" if here else "RANK", "")
    return int(place) if place.isdecimal() else 0
