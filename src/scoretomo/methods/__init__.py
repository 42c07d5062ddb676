"""Reconstruction methods, one paper algorithm a function."""
