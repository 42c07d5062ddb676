"""``scoretomo check``: which class averages are junk, before anything is trained on them."""

from pathlib import Path
from typing import Annotated

import tyro

from ..datatypes import InputError
from ..imaging.preprocess import PreprocessConfig
from ..imaging.quality import Quality
from ..io.images import read_image_stack
from ..io.job_folders import file_in_job
from ..io.quality import check_images, write_quality
from ..report.quality_sheet import quality_sheet
from .progress import say

_PREPROCESS = PreprocessConfig()
_SHOWN = ("resolution_angstrom", "density", "radius_angstrom", "offset_angstrom", "similarity")


def check(
    images: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGES")],
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FOLDER")] = None,
    pixel_size: Annotated[float | None, tyro.conf.arg(metavar="ANGSTROM")] = None,
    datadir: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None,
    preprocess: Annotated[PreprocessConfig, tyro.conf.arg(name="")] = _PREPROCESS,
) -> None:
    """Say which class averages are junk, doubtful or the odd one out, and why.

    `run` and `train` do this by themselves and leave the junk out; --keep, --exclude and --check False overrule them.

    Parameters
    ----------
    images
        Class averages: any file, or folder of a job, that `train` can read. Of a RELION .star, the numbers of particles
        and resolutions of the classes are used too.
    output
        Folder for quality.csv, the table with all figures, and quality.png, all images with their verdicts. None: the
        table is printed only.
    pixel_size
        Pixel size in Angstrom, where the file says none or a wrong one.
    datadir
        Folder in which image stacks are looked for first, where they are no longer where the file says; folders at the
        beginning of their names are left out as far as needed.
    preprocess
        How the images will be prepared.
    """
    images, found = file_in_job(images, "class averages")
    loaded = read_image_stack(images, pixel_size, datadir)
    for note in found + loaded.notes:
        say(f"note: {note}")
    quality, prepared = check_images(images, loaded.stack, preprocess)
    print(table(quality))
    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror or error}") from error
    write_quality(output / "quality.csv", quality, range(len(prepared)))
    sharpest_first = quality.parts["detail"].nan_to_num(0.0).argsort(descending=True).tolist()
    quality_sheet(output / "quality.png", prepared, quality.verdicts, order=sharpest_first)
    print(f"table: {output / 'quality.csv'}\npicture: {output / 'quality.png'}")


def table(quality: Quality) -> str:
    """Write verdicts, the more telling parts and reasons as text: junk first, the good in one line."""
    head = f"{'image':>5s}  {'verdict':8s}" + "".join(f"  {name.split('_')[0]:>10s}" for name in _SHOWN) + "  why"
    lines = [head]
    for verdict in ("junk", "doubtful"):
        for index in quality.which(verdict):
            parts = "".join(f"  {quality.parts[name][index].item():10.3g}" for name in _SHOWN)
            lines.append(f"{index:5d}  {verdict:8s}{parts}  {'; '.join(quality.reasons[index])}")
    good = quality.which("good")
    middle = {name: quality.parts[name][good].nanmedian().item() for name in _SHOWN}
    lines.append(f"{len(good):5d}  {'good':8s}" + "".join(f"  {middle[name]:10.3g}" for name in _SHOWN) + "  (medians)")
    return "\n".join(lines)
