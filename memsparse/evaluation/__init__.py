"""Evaluation: metrics over answers and citations."""
