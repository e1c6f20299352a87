"""memsparse: a native long-term memory for language models (Memory Sparse Attention, arXiv 2603.23516)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memsparse.engine.engine import MemoryEngine
    from memsparse.types import Answer, Citation, Document

__version__ = "0.1.0"
__all__ = ["Answer", "Citation", "Document", "MemoryEngine", "__version__"]

_HOMES = {
    "Answer": "memsparse.types",
    "Citation": "memsparse.types",
    "Document": "memsparse.types",
    "MemoryEngine": "memsparse.engine.engine",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import memsparse` itself is instant."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
