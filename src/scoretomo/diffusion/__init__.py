"""Diffusion models of any tensor shape: preconditioning, losses, samplers, closed-form oracle."""
