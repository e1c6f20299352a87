"""How fast and how large: routing, encoding, decoding and growing banks, beside peers in the same run."""
