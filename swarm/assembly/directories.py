"""Model directories that appear complete or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import Code, SwarmError
from swarm.files import storage_error


@contextmanager
def replaced_directory(out_dir: Path, marker: str) -> Iterator[Path]:
    """A new directory that takes the place of `out_dir` when the block ends well.

    An earlier one, which has the file `marker`, is replaced; anything else there is left alone.
    Raises `DISK_FULL` or `DIR_NOT_WRITABLE`.
    """
    _refuse_foreign(out_dir, marker)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out_dir.parent, prefix=f".{out_dir.name}.")
    except OSError as error:
        raise storage_error(out_dir, error) from error
    with temporary:
        made = Path(temporary.name) / "new"
        yield made
        _replace(out_dir, made, Path(temporary.name) / "old")


def _refuse_foreign(out_dir: Path, marker: str) -> None:
    """Only an empty directory or an earlier model may be replaced."""
    try:
        foreign = out_dir.exists() and (
            not out_dir.is_dir() or (any(out_dir.iterdir()) and not (out_dir / marker).exists())
        )
    except OSError as error:
        raise storage_error(out_dir, error) from error
    if foreign:
        raise SwarmError(
            Code.DIR_NOT_WRITABLE,
            f"{out_dir} exists and is not an assembled model",
            "name a new or an empty directory",
        )


def _replace(out_dir: Path, made: Path, old: Path) -> None:
    try:
        if out_dir.exists():
            out_dir.rename(old)
        made.rename(out_dir)
    except OSError as error:
        if old.exists() and not out_dir.exists():
            old.rename(out_dir)
        raise storage_error(out_dir, error) from error
    shutil.rmtree(old, ignore_errors=True)
