"""Score-based random tomography: class averages in, one 3D volume per class average out."""

from importlib.metadata import version

__version__ = version("scoretomo")
