"""The command line: ``scoretomo VERB ...``. Finds the verb, reads its options, says in one line what went wrong."""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import __version__, interruption

_VERBS = {
    "demo": "see it work on simulated images, in minutes",
    "run": "class averages in, one volume for each of them and a report out",
    "initial": "class averages in, a first map out and whether to trust it, in seconds",
    "train": "the first part of run: train the denoiser",
    "reconstruct": "the second part of run: make the volumes, or more of them",
    "ensemble": "which volumes to trust, all in one frame and hand, and how the molecule moves",
    "motion": "whether and how the molecule moves, with a volume for each class average; no network, minutes",
    "consensus": "one refined volume of all reliable ones, with a resolution",
    "particles": "the particles of each state of the molecule, and a starting model for them",
    "report": "all that a run has found, on one page that opens anywhere",
    "evaluate": "compare volumes with a reference",
    "drgn": "particles in, a landscape of volumes out: cryoDRGN and cryoDRGN2, with poses known or found",
    "points": "a diffusion prior on point clouds, and 3D models from very few observations with it",
    "simulate": "make test images of a moving box or capsid, or of a map or atomic model",
    "check": "which class averages are junk, before anything is trained on them",
    "info": "what is in a file of images or a volume",
}

# Verbs that save how far they are.
_RESUMABLE = {
    "demo",
    "run",
    "initial",
    "train",
    "reconstruct",
    "motion",
    "consensus",
    "drgn train",
    "drgn poses",
    "points prepare",
    "points train",
    "points reconstruct",
}

_HELP = (
    f"""usage: scoretomo VERB ...

scoretomo {__version__}: cryo-EM class averages in, one 3D volume per class average out. No poses, no starting model.

"""
    + "\n".join(f"  {verb:12s} {summary}" for verb, summary in _VERBS.items())
    + """

scoretomo VERB --help explains the options of a verb. To begin with:

  scoretomo demo                            simulate, reconstruct and evaluate a small box
  scoretomo run averages.mrcs -o my_run     your own class averages
"""
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of the process if None.

    Returns
    -------
    int
        Exit status: 0 done; 1 the computation failed; 2 something given cannot be used; 130 interrupted by Ctrl-C, 143
        by SIGTERM, 129 by SIGHUP.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # threads that wait for each other in a loop take ten times as long where another program has the cores; OpenMP
    # reads this when PyTorch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0 if arguments else 2
    try:
        with interruption.handled(interruption.at_once()):
            return _carry_out(arguments)
    except KeyboardInterrupt as request:  # while libraries are loaded
        return _interrupted(arguments, request)


def _carry_out(arguments: Sequence[str]) -> int:
    """Do what is asked for; its exit status, once it is said in one line what went wrong, if anything did."""
    # imports are inside functions because PyTorch and diffusers take seconds to load
    from .datatypes import InputError
    from .processes import joined, only_main_speaks

    with ExitStack() as company:
        try:
            company.enter_context(joined())
            with only_main_speaks():
                return _dispatch(arguments)
        except InputError as error:
            return _fail(str(error), 2)
        except (
            BrokenPipeError
        ):  # `scoretomo ... | head`; nothing more can be said, and Python must not try to at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
        except KeyboardInterrupt as request:
            return _interrupted(arguments, request)
        except SystemExit as stop:  # of the option parser, which has said why
            return stop.code if isinstance(stop.code, int) else 2
        except RuntimeError as error:
            if type(error).__name__ not in ("TrainingDiverged", "OutOfMemoryError", "ProcessLost"):
                raise
            return _fail(str(error), 1)


def _dispatch(arguments: Sequence[str]) -> int:
    import tyro

    from .datatypes import InputError

    verb, rest = arguments[0], arguments[1:]
    if verb == "--version":
        print(__version__)
        return 0
    if verb not in _VERBS:
        raise InputError(f"there is no verb {verb!r}; choose from {', '.join(_VERBS)}")
    if verb == "simulate":
        from .commands.simulate import SOURCES

        tyro.extras.subcommand_cli_from_dict(SOURCES, prog="scoretomo simulate", args=rest)
        return 0
    if verb == "drgn":
        from .commands.drgn import VERBS

        tyro.extras.subcommand_cli_from_dict(VERBS, prog="scoretomo drgn", args=rest)
        return 0
    if verb == "points":
        from .commands.points import verbs

        tyro.extras.subcommand_cli_from_dict(verbs(_value(rest, "--preset")), prog="scoretomo points", args=rest)
        return 0
    tyro.cli(_command(verb, rest), prog=f"scoretomo {verb}", args=rest)
    return 0


def _command(verb: str, arguments: Sequence[str]) -> Callable[..., None]:
    """Choose the function of a verb; give it the settings of the preset or run folder that the arguments name."""
    match verb:
        case "info":
            from .commands.info import info

            return info
        case "check":
            from .commands.check import check

            return check
        case "evaluate":
            from .commands.evaluate import evaluate

            return evaluate
        case "consensus":
            from .commands.consensus import consensus

            return consensus
        case "particles":
            from .commands.particles import particles

            return particles
        case "initial":
            from .commands.initial import initial

            return partial(initial, config=_preset(arguments).about_images())
        case "report":
            from .commands.report import report

            return report
        case "demo":
            from .commands.demo import demo

            return partial(demo, config=_preset(["--preset", "demo", *arguments]))
        case "motion":
            from .commands.motion import motion

            return motion
        case "ensemble":
            from .commands.ensemble import ensemble

            return ensemble
        case "reconstruct":
            from .commands.reconstruct import reconstruct

            return partial(reconstruct, growth=_settings_of_run(arguments).growth)
        case "run" if _value(arguments, "--method") == "drgn":
            from .commands.run_drgn import run_drgn

            return partial(run_drgn, config=_preset(arguments).about_images())
        case _:
            from .commands.run import run
            from .commands.train import train

            return partial(run if verb == "run" else train, config=_preset(arguments))


def _preset(arguments: Sequence[str]) -> Any:
    """Look up the settings that ``--preset`` names; a wrong name is left to the parser to complain about.

    A limit in minutes or images takes the place of the preset's, of whichever kind that is.
    """
    from .presets import PRESETS

    words = _words(arguments)
    chosen = _value(arguments, "--preset")
    config = next((config for name, config in PRESETS.items() if name == chosen), PRESETS["default"])
    # the parser gives the limit its value; until then it is only not to be none
    if "--minutes" in words:
        return replace(config, budget=None, minutes=config.minutes or 1.0)
    return replace(config, minutes=None, budget=config.budget or 1) if "--budget" in words else config


def _value(arguments: Sequence[str], option: str) -> str | None:
    """Find what follows an option, where it is given; the last one counts."""
    values = [after for before, after in pairwise(_words(arguments)) if before == option]
    return values[-1] if values else None


def _words(arguments: Sequence[str]) -> list[str]:
    return [word for argument in arguments for word in argument.split("=", 1)]


def _settings_of_run(arguments: Sequence[str]) -> Any:
    """Read the settings of the run folder among the arguments; the default ones if there is none."""
    from .presets import PRESETS
    from .runs import read_config

    folders = [Path(argument) for argument in arguments if (Path(argument) / "config.toml").is_file()]
    return read_config(folders[0]) if folders else PRESETS["default"]


def _how_to_go_on(arguments: Sequence[str]) -> str:
    """Say so where a command saves how far it is."""
    goes_on = arguments[0] in _RESUMABLE or " ".join(arguments[:2]) in _RESUMABLE
    return "; give the same command again to go on" if goes_on else ""


def _interrupted(arguments: Sequence[str], request: KeyboardInterrupt) -> int:
    return _say_once("interrupted" + _how_to_go_on(arguments), interruption.status_of(request))


def _fail(message: str, status: int) -> int:
    return _say_once("error: " + " ".join(message.split()), status)


def _say_once(message: str, status: int) -> int:
    """Say why the job ends, unless another of its processes has done so."""
    processes = sys.modules.get(f"{__package__}.processes")  # to be interrupted while it loads is to be alone
    if processes is None or processes.first_to_fail():
        print(f"scoretomo: {message}", file=sys.stderr)
    return status
