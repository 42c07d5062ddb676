"""Run one benchmark by name, print its table and write its record; or make docs/performance.md of the records.

A benchmark is a module of this folder with a frozen dataclass ``Settings``, which has a field ``device``, and a
generator ``measure(settings)`` that yields the rows of its table. Its docstring's first line says what it measures.
"""

import sys
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import join

import tyro
from rich.console import Console
from rich.table import Table

from .peak import measured_peak
from .record import Row, write_record

BENCHMARKS = (
    "peak",
    "projection",
    "reconstruction_step",
    "training",
    "pose_search",
    "pose_search_sweep",
    "scaling",
    "busy",
    "accuracy",
    "reliability",
    "synchronisation",
    "initial_model",
    "motion",
    "methods",
    "particles",
    "point_assignment",
    "points",
    "points_tune",
    "points_time",
)

_USAGE = """usage: python -m benchmarks NAME [--no-record] [options of NAME; --help shows them]
       python -m benchmarks performance [--check]

Prints a table and writes benchmarks/records/NAME_DEVICE.json, which --no-record leaves as it is. `performance` makes
docs/performance.md of all records; with --check it only says whether that page is up to date.
"""


def main(arguments: list[str]) -> int:
    """Run what the arguments name; exit status 2 if they name nothing."""
    if arguments and arguments[0] == "performance":
        from .performance import main as make_page

        return make_page(arguments[1:])
    if not arguments or arguments[0] not in BENCHMARKS:
        print(_USAGE)
        for name in BENCHMARKS:
            print(f"  {name}: {(import_module(f'.{name}', __package__).__doc__ or '').splitlines()[0]}")
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    name, options = arguments[0], [argument for argument in arguments[1:] if argument != "--no-record"]
    benchmark = import_module(f".{name}", __package__)
    settings = tyro.cli(benchmark.Settings, prog=f"python -m benchmarks {name}", args=options)
    command = join(["python", "-m", "benchmarks", name, *map(_without_folder, options)])
    record = partial(write_record, name, command, asdict(settings), peak=asdict(measured_peak(settings.device)))
    rows: list[Row] = []
    for row in benchmark.measure(settings):
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
        if "--no-record" not in arguments:  # as it goes: a long run may be cut
            record(rows, complete=False)
    Console(width=None if sys.stdout.isatty() else 160).print(_table(rows))
    if "--no-record" not in arguments:
        print(f"record: {record(rows, complete=True)}")
    return 0


def _without_folder(option: str) -> str:
    """Name of the file in the place of an absolute path, which is that of one machine."""
    return Path(option).name if option.startswith("/") else option


def _table(rows: list[Row]) -> Table:
    """Rows as a table whose columns are the keys of the first."""
    table = Table(*(key.replace("_", " ") for key in rows[0]))
    for row in rows:
        table.add_row(*("-" if value is None else f"{value}" for value in row.values()))
    return table


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
