"""What a guest is to do, in a folder that it finds in this machine's file tree."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .errors import MachineError
from .link import LOOPBACK, Link
from .pmem import Image

START = Path(__file__).parent / "guest" / "start"
PREFIX = "softroce-job."
# Made by shells for themselves; or about folders that the guest does not have (/run is its own).
OURS = {"_", "SHLVL", "PWD", "OLDPWD", "XDG_RUNTIME_DIR"}


@dataclass(frozen=True)
class Job:
    """One command, where and as whom it runs, and what the guest has to set up for it."""

    command: Sequence[str]
    directory: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    limit: float = 300  # seconds
    ordinary: bool = False  # as a user without rights
    shares: Sequence[Path] = ()  # folders in which what is written stays
    pmem: Sequence[Image] = ()
    link: Link = LOOPBACK

    def __post_init__(self) -> None:
        if not self.command:
            raise MachineError("the command is missing")
        for share in self.shares:
            if not share.is_dir():
                raise MachineError(f"--rw {share}: the folder does not exist")

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A folder with all that the guest reads; it is gone afterwards, if need be when the next job starts."""
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        descriptor = _lock(folder)
        try:
            self._write(folder)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(descriptor)

    def _write(self, folder: Path) -> None:
        (folder / "start").symlink_to(START)
        environment = {
            **self.environment,
            "SOFTROCE": self.link.name,
        }  # by which a command can tell where it runs
        exports = [
            f"export {name}={shlex.quote(value)}"
            for name, value in environment.items()
            if _exported(name)
        ]
        lines = [
            *exports,
            f"cd {shlex.quote(str(self.directory))} || exit",
            f"exec env -- {shlex.join(self.command)}",
        ]
        (folder / "command").write_text("\n".join(lines) + "\n")
        (folder / "shares").write_text(
            "".join(f"share{i} {share.resolve()}\n" for i, share in enumerate(self.shares))
        )
        settings = {
            "name": self.link.name,
            "link": self.link.interface,
            "addresses": " ".join(self.link.addresses),
            "limit": f"{self.limit:g}",
            "user": "ordinary" if self.ordinary else "root",
        }
        lists = {
            "pmem": [f"{image.mode} {'new' if image.new else 'used'}" for image in self.pmem],
            "reach": [
                str(self.directory),
                *filter(None, map(self._which, (self.command[0], "python3"))),
            ],
        }
        lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
        lines += [f"{name}=({shlex.join(values)})" for name, values in lists.items()]
        (folder / "settings").write_text("\n".join(lines) + "\n")

    def _which(self, command: str) -> str | None:
        return shutil.which(command, path=self.environment.get("PATH"))


def _exported(name: str) -> bool:
    return name.isidentifier() and name not in OURS


def _lock(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _sweep() -> None:
    """Removes what killed launchers have left: folders that nobody holds locked."""
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            if (
                time.time() - folder.stat().st_mtime < 60
            ):  # its launcher may not have come to locking it
                continue
            descriptor = _lock(folder)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
