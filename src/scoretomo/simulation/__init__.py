"""Phantoms and simulated data sets with known truth."""
