"""Compiles the scan's kernel (`memsparse/ops/native`) when the package is built, if there is a C compiler.

Without one, or where it fails, the package is built all the same, says so, and scans with torch's products.
The environment's CC names another compiler than `cc`.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-shared", "-fPIC")
SOURCES = ("best_products.c", "raise_bounds.c")


class CompileKernel(BuildHookInterface):
    """Adds the compiled kernel to wheels, and to the source tree of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and mark the wheel as one for this platform."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root, "memsparse", "ops", "native")
        library = folder / "scan.kernel"
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if sys.platform == "win32" or shutil.which(compiler[0]) is None:
            self.app.display_warning(f"no C compiler ({compiler[0]}): scans take torch's products")
            return
        command = [*compiler, *FLAGS, "-o", str(library), *(str(folder / name) for name in SOURCES), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(
                f"{shlex.join(command)} failed: scans take torch's products\n{done.stderr}"
            )
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{self.platform_tag()}"

    @staticmethod
    def platform_tag() -> str:
        """The tag of this platform; the kernel needs no particular Python."""
        return sysconfig.get_platform().replace("-", "_").replace(".", "_")
