"""Stand-ins that need no model and no file."""

from memsparse.engine.parity import CharTokenizer
from memsparse.text import PromptBuilder, Template

__all__ = ["CharTokenizer", "char_builder"]


def char_builder(template: Template | None = None) -> PromptBuilder:
    """A builder whose every character and every `<|...|>` marker is one token."""
    return PromptBuilder(CharTokenizer(template), template)
