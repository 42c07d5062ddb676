"""Config dataclasses as tables of plain values, for TOML and for comparison."""

import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

Config = TypeVar("Config")


def to_table(config: Any) -> dict[str, Any]:
    """Nested dicts and lists of a config dataclass; what is None is left out, since TOML has no word for it."""
    table = {field.name: _plain(getattr(config, field.name)) for field in fields(config)}
    return {name: value for name, value in table.items() if value is not None}


def from_table(kind: type[Config], table: Mapping[str, Any]) -> Config:
    """Read :func:`to_table` back.

    Raises
    ------
    KeyError
        A field without a value, or a value without a field.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise KeyError(", ".join(unknown))
    return kind(**{name: _typed(hints[name], table, name) for name in names})


def differences(before: Mapping[str, Any], now: Mapping[str, Any], ignored: tuple[str, ...] = ()) -> list[str]:
    """Say which values of two tables differ: ``noise.median is 0.4, was 0.3``."""
    old, new = _flat(before), _flat(now)
    names = [name for name in {**old, **new} if name.split(".")[0] not in ignored]
    return [
        f"{name} is {new.get(name, 'not set')}, was {old.get(name, 'not set')}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_table(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _typed(hint: Any, table: Mapping[str, Any], name: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if name not in table:
        if type(None) in options:
            return None
        raise KeyError(name)
    return _read(next(option for option in options if option is not type(None)), table[name])


def _read(hint: Any, value: Any) -> Any:
    if is_dataclass(hint):
        return from_table(hint, value)  # type: ignore[arg-type]
    if typing.get_origin(hint) is tuple:
        return tuple(_read(typing.get_args(hint)[0], item) for item in value)
    return float(value) if hint is float else value


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
