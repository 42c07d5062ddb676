"""Numbers that an option may be: what could not work is refused where it enters, before anything is made."""

from .datatypes import InputError

Limits = tuple[int | float, int | float]
"""The least and the greatest."""
SEEDS = (0, 2**32 - 1)
"""Seeds that all generators of random numbers take, and multiples of which PyTorch takes."""
WAITING = (1e-3, 1e7)
"""Minutes that anybody waits."""
MANY = 10**15
"""More things than are ever counted."""


def check_limits(config: object, **limits: Limits) -> None:
    """Refuse a number, or one of several, that lies outside its limits; NaN does, and None is no number.

    Parameters
    ----------
    config
        What has the numbers.
    limits
        Least and greatest, by the name of the field.

    Raises
    ------
    InputError
        Naming the field, its limits and the number.
    """
    for name, (least, greatest) in limits.items():
        value = getattr(config, name)
        for each in value if isinstance(value, tuple) else (value,):
            check_limit(name, each, (least, greatest))


def check_limit(name: str, value: int | float | None, limits: Limits) -> None:
    """Refuse a single number as :func:`check_limits` does."""
    least, greatest = limits
    if value is not None and not least <= value <= greatest:
        raise InputError(f"{name} must be {least:.10g} to {greatest:.10g}, not {_shown(value)}")


def _shown(value: int | float) -> str:
    try:
        return f"{value:.10g}"
    except OverflowError:
        return f"a number of {len(str(abs(int(value))))} digits"
