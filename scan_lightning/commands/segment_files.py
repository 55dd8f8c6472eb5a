"""Which images ``scan-lightning segment`` reads and which files it writes."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from scan_lightning.data.images import IMAGE_SUFFIXES


def find_images(arguments: Sequence[str]) -> list[Path]:
    """List the images that files, folders and unexpanded patterns name, each once; files need not exist.

    Args:
        arguments: Of the command line.

    Returns:
        Paths, in the order of the arguments, those of a folder sorted.

    Raises:
        FileNotFoundError: If a folder or a pattern gives no image.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        path, files = Path(argument), [Path(argument)]
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if _is_image(file))
        elif glob.has_magic(argument) and not path.exists():
            names = glob.glob(argument, recursive=True)  # noqa: PTH207, Path.glob takes no absolute pattern
            files = sorted(file for file in map(Path, names) if _is_image(file))
        if not files:
            raise FileNotFoundError(f"{argument}: expected images ({', '.join(IMAGE_SUFFIXES)}), found none")
        for file in files:
            found.setdefault(file.parent.resolve() / file.name, file)
    return list(found.values())


def _is_image(path: Path) -> bool:
    """Tell by the name; hidden files are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def output_stems(paths: Sequence[Path]) -> list[str]:
    """Name the outputs so that none overwrites another's, with -2, -3, ... behind a stem that comes again.

    Args:
        paths: Images.

    Returns:
        One stem per image.
    """
    own = {path.stem.lower() for path in paths}  # some file systems do not tell upper from lower case
    used: set[str] = set()
    stems = []
    for path in paths:
        stem, number = path.stem, 2
        while stem.lower() in used or (number > 2 and stem.lower() in own):
            stem, number = f"{path.stem}-{number}", number + 1
        used.add(stem.lower())
        stems.append(stem)
    return stems


def output_names(stem: str) -> tuple[str, str, str]:
    """Name the files of an image.

    Args:
        stem: From `output_stems`.

    Returns:
        Names of label map, overlay and record.
    """
    return f"{stem}_labels.png", f"{stem}_overlay.png", f"{stem}.json"


def check_output(output: Path, arguments: Sequence[str], images: Sequence[Path], stems: Sequence[str]) -> None:
    """Look for outputs that would overwrite inputs, or be inputs when the call is repeated.

    Args:
        output: Folder of the results.
        arguments: Images as the command line names them.
        images: From `find_images`.
        stems: From `output_stems`.

    Raises:
        ValueError: If there are any, or ``output`` is a file.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"output: expected a folder, {output} is a file")
    place = output.resolve()
    if place in {Path(argument).resolve() for argument in arguments}:
        raise ValueError(f"output: expected another folder than that of the images, {output}")
    written = {place / name for stem in stems for name in output_names(stem)}
    for path in images:
        if path.resolve() in written:
            raise ValueError(f"output: {path} is an image to segment and would be overwritten")
