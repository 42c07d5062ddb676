"""Rotations, grids on SO(3), symmetry groups."""
