"""Environment variables, all read here.

MEMSPARSE_CACHE    folder for what the package may make again at any time
"""

import os
from pathlib import Path


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
