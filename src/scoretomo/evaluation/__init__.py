"""Comparison of reconstructions with a reference."""
