"""Memory parallel: one bank read, and filled, by the processes that `torchrun` starts."""
