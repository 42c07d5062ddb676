"""Dataclasses as tables of plain values, for TOML, JSON and checkpoints, and back, with every type checked."""

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

Config = TypeVar("Config")

# What a value must be, in words, and what is taken for it; a bool is an int to Python, and to nobody else.
_PLAIN: dict[Any, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("text", (str,)),
}
_MOST_SHOWN = 40


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
    TypeError
        A value of another type than the field's, said in words.
    """
    made: Config = typed(kind, table, "it")
    return made


def typed(hint: Any, value: Any, name: str) -> Any:
    """Give a plain value as the type that is meant: dataclasses of tables, tuples of lists, floats of whole numbers.

    Parameters
    ----------
    hint
        Also a ``TypedDict``, which stays a dict and may have more keys, a tensor, or one of some shape.
    value
        Of a TOML or JSON file, or of a checkpoint.
    name
        What it is called in messages.

    Raises
    ------
    KeyError, TypeError
        As :func:`from_table`.
    """
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _one_of(typing.get_args(hint), value, name)
    if is_dataclass(hint) or typing.is_typeddict(hint):
        return _from_mapping(hint, _taken(Mapping, "a table", value, name))
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        if value not in arguments:
            raise TypeError(f"{name} must be one of {', '.join(map(str, arguments))}, not {_shown(value)}")
        return value
    if origin in (tuple, list, Sequence):
        return _items(origin, arguments, value, name)
    if origin in (dict, Mapping):
        table = _taken(Mapping, "a table", value, name)
        return {key: typed(arguments[1], each, str(key)) for key, each in table.items()} if arguments else dict(table)
    if hint in _PLAIN:
        words, taken = _PLAIN[hint]
        if isinstance(value, bool) and hint is not bool:
            raise TypeError(f"{name} must be {words}, not {_shown(value)}")
        return _float(_taken(taken, words, value, name), name) if hint is float else _taken(taken, words, value, name)
    if hint in (Any, object):
        return value
    return _taken(hint, str(getattr(hint, "__name__", hint)), value, name)


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


def _from_mapping(kind: Any, table: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
        if unknown := sorted(set(map(str, table)) - set(names)):
            raise KeyError(", ".join(unknown))
        needed = [name for name in names if type(None) not in typing.get_args(hints[name])]
    else:
        names, needed = list(hints), list(kind.__required_keys__)
    if missing := [name for name in needed if name not in table]:
        raise KeyError(missing[0])
    if not is_dataclass(kind):
        return {**table, **{name: typed(hints[name], table[name], name) for name in names if name in table}}
    made: Any = kind
    return made(**{name: typed(hints[name], table.get(name), name) for name in names})


def _one_of(options: tuple[Any, ...], value: Any, name: str) -> Any:
    if value is None and type(None) in options:
        return None
    *others, last = [option for option in options if option is not type(None)]
    for option in others:
        try:
            return typed(option, value, name)
        except (KeyError, TypeError):  # it may be of another of them
            continue
    return typed(last, value, name)


def _items(origin: Any, arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    values = _taken((list, tuple), "a list", value, name)
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(values) != len(arguments):
            raise TypeError(f"{name} must have {len(arguments)} values, not {len(values)}")
        return tuple(typed(hint, item, name) for hint, item in zip(arguments, values, strict=True))
    items = [typed(arguments[0] if arguments else Any, item, f"a value of {name}") for item in values]
    return tuple(items) if origin is tuple else items


def _taken(kinds: Any, words: str, value: Any, name: str) -> Any:
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {words}, not {_shown(value)}")
    return value


def _float(value: int | float, name: str) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise TypeError(f"{name} is too large a number") from error


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        words = ascii(value)
        return words if len(words) <= _MOST_SHOWN else f"{words[:_MOST_SHOWN]}..."
    return f"a {type(value).__name__}" + (f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else "")


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
