"""The file of a folder that says of what, and by which settings, the folder was made: ``config.toml`` and its kin."""

import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from .. import __version__
from ..datatypes import InputError
from .files import write_text
from .settings import differences, from_table, to_table

Config = TypeVar("Config")


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
    """

    name: str
    folder_kind: str
    maker: str
    own_files: frozenset[str]

    def exists(self, folder: Path) -> bool:
        """Whether the folder has one."""
        return (folder / self.name).exists()

    def read(self, folder: Path) -> dict[str, Any]:
        """Read all its tables.

        Raises
        ------
        InputError
            There is none, or it is no TOML.
        """
        try:
            return tomllib.loads((folder / self.name).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{folder}: is no {self.folder_kind} (no {self.name}); make one with `{self.maker}`"
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{folder / self.name}: cannot be understood ({error})") from error

    def of_another_version(self, folder: Path, error: Exception) -> InputError:
        """Make the error that says that a field or a setting is missing or unknown."""
        return InputError(
            f"{folder / self.name}: is of another version ({error} is not in both); begin a new {self.folder_kind}"
        )

    def settings(self, folder: Path, kind: type[Config]) -> Config:
        """Read the settings back.

        Raises
        ------
        InputError
            As :meth:`read`; settings of another version.
        """
        try:
            return from_table(kind, self.read(folder)["settings"])
        except (KeyError, TypeError) as error:
            raise self.of_another_version(folder, error) from error

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
