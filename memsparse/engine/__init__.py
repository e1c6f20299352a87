"""The engine: encode documents, route and read memory, interleave rounds, answer."""
