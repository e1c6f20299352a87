"""Compiles the kernels in C (`memsparse/ops/native`) when the package is built on Linux, if it can be.

Without a C compiler, or where it fails, the package is built all the same, says so, and scans with torch. The
environment's CC names another compiler than `cc`.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = "memsparse/ops/native"
LIBRARY = "scan.kernel"
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-shared", "-fPIC")


class CompileKernel(BuildHookInterface):
    """Adds the compiled library to a wheel, or puts it into the source tree of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform."""
        if self.target_name != "wheel":
            return
        sources = Path(self.root, FOLDER)
        self.made_in = Path(mkdtemp(prefix="memsparse-build-"))
        library = self.made_in / LIBRARY
        if version == "editable":
            (sources / LIBRARY).unlink(missing_ok=True)  # it may be of other sources
        if not self.compile(sorted(sources.glob("*.c")), library):
            return
        if version == "editable":
            shutil.copyfile(library, sources / LIBRARY)
        else:
            build_data["force_include"][str(library)] = f"{FOLDER}/{LIBRARY}"
            build_data["pure_python"] = False
            # No particular Python: its functions are called by address.
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Leave nothing behind."""
        if hasattr(self, "made_in"):
            shutil.rmtree(self.made_in, ignore_errors=True)

    def compile(self, sources: list[Path], library: Path) -> bool:
        """Whether there is a library now; if not, the reason is told."""
        compiler = shlex.split(os.environ.get("CC") or "cc")
        if sys.platform != "linux" or shutil.which(compiler[0]) is None:
            self.app.display_warning(
                f"no C compiler to use ({compiler[0]} on {sys.platform}): torch takes the kernels' place"
            )
            return False
        for more in ((), ("-DMEMSPARSE_NO_TILES",)):  # older compilers and assemblers do not know them
            command = [*compiler, *FLAGS, *more, "-o", str(library), *map(str, sources), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                return True
        self.app.display_warning(
            f"{shlex.join(command)} failed: torch takes the kernels' place\n{done.stderr}"
        )
        return False
