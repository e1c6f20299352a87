"""Training: invented worlds, real questions, and a small model taught to read them from memory."""
