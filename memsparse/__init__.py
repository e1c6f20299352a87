"""memsparse: a native long-term memory for language models (Memory Sparse Attention, arXiv 2603.23516)."""

__version__ = "0.1.0"
