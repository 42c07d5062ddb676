"""The file of a folder that says of what, and by which settings, the folder was made: ``config.toml`` and its kin."""

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import tomli_w

from .. import __version__
from ..datatypes import InputError
from .files import write_text
from .records import read_toml, understood
from .settings import differences, from_table, to_table, typed

Config = TypeVar("Config")


class Source(TypedDict):
    """What every table of data says; which more it says depends on the kind of folder."""

    path: str
    sha256: str


class Made(TypedDict):
    """The tables of such a file, and what is beside them; the last two only of runs of class averages."""

    scoretomo: str
    command: str
    preset: NotRequired[str]
    device: NotRequired[str]
    input: dict[str, Any]
    settings: dict[str, Any]


@dataclass(frozen=True)
class SettingsFile:
    """Such a file, whatever the folder.

    Its tables are ``input``, what tells the data from others, and ``settings``, a config dataclass; beside them it has
    the version and the command.

    Attributes
    ----------
    name
        Such as ``drgn.toml``.
    folder_kind
        What a folder with it is called in messages, such as ``run folder of drgn``.
    maker
        The command that makes such a folder.
    own_files
        What else may lie in a folder that is not yet made to its end.
    source
        A ``TypedDict`` of what the table of the data says.
    """

    name: str
    folder_kind: str
    maker: str
    own_files: frozenset[str]
    source: type[Any] = Source

    def exists(self, folder: Path) -> bool:
        """Whether the folder has one."""
        return (folder / self.name).exists()

    def read(self, folder: Path) -> Made:
        """Read all its tables.

        Raises
        ------
        InputError
            There is none, it is no TOML, or lacks a table.
        """
        if not self.exists(folder):
            raise InputError(f"{folder}: is no {self.folder_kind} (no {self.name}); make one with `{self.maker}`")
        made = read_toml(folder / self.name, Made, self.advice)
        with self.understood(folder):
            return {**made, "input": typed(self.source, made["input"], "input")}

    @property
    def advice(self) -> str:
        """How to go on without the file: nothing but a text editor can mend it."""
        return f"mend it, or begin a new {self.folder_kind}"

    def understood(self, folder: Path) -> AbstractContextManager[None]:
        """Turn what goes wrong while something is made of the tables into the line that says so."""
        return understood(folder / self.name, self.advice)

    def source_of(self, folder: Path) -> Any:
        """Read the table of the data, a :attr:`source`."""
        return self.read(folder)["input"]

    def settings(self, folder: Path, kind: type[Config]) -> Config:
        """Read the settings back.

        Raises
        ------
        InputError
            As :meth:`read`; settings of another version, or that no command would take.
        """
        table = self.read(folder)["settings"]
        with self.understood(folder):
            return from_table(kind, table)

    def refuse_other_files(self, folder: Path) -> None:
        """Keep out of folders that hold something else.

        Raises
        ------
        InputError
            The folder holds a file that is not of this kind of folder.
        """
        others = sorted(path.name for path in folder.iterdir() if path.name not in {self.name, *self.own_files})
        if others:
            raise InputError(f"{folder}: holds other files ({others[0]}); give an empty or a new folder")

    def take_up(
        self,
        folder: Path,
        data: str,
        source: Mapping[str, Any],
        config: Any,
        *,
        places: tuple[str, ...] = ("path",),
        limits: tuple[str, ...] = (),
    ) -> None:
        """Write the file, or go on with a folder that the same data and settings have made.

        Parameters
        ----------
        folder
            It exists.
        data
            What it is made of, in messages: such as ``particles``.
        source, config
            Table of the data, with its ``path``, and dataclass of the settings.
        places, limits
            Names in the source and in the settings that may change from one command to the next: where the data lie,
            and how long to work.

        Raises
        ------
        InputError
            A folder of other data or settings, which is left as it was, or one that holds other files.
        """
        settings = to_table(config)
        if not self.exists(folder):
            self.refuse_other_files(folder)
            table = {"scoretomo": __version__, "command": " ".join(sys.argv)}
            write_text(folder / self.name, tomli_w.dumps({**table, "input": source, "settings": settings}))
            return
        saved = self.read(folder)
        self.settings(folder, type(config))  # what is no setting is said as such, and not as another one
        changed = differences(saved["input"], source, ignored=places)
        if changed:
            raise InputError(
                f"{folder}: was made of other {data} ({saved['input']['path']}: {changed[0]}); give another folder"
            )
        changed = differences(saved["settings"], settings, ignored=limits)
        if changed:
            raise InputError(f"{folder}: was made with other settings ({'; '.join(changed)}); give another folder")
        if (saved["input"], saved["settings"]) != (source, settings):
            write_text(folder / self.name, tomli_w.dumps({**saved, "input": source, "settings": settings}))
