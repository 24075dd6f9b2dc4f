"""The command of a guest, in a folder that it reads through this machine's file tree."""

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
# Variables that shells set themselves, or for folders that the guest lacks (/run is its own).
OURS = {"_", "SHLVL", "PWD", "OLDPWD", "XDG_RUNTIME_DIR"}


@dataclass(frozen=True)
class Job:
    """One command, its folder and user, and the devices that the guest has to set up for it."""

    command: Sequence[str]
    directory: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    limit: float = 300  # seconds
    ordinary: bool = False  # as a user without privileges
    shares: Sequence[Path] = ()  # folders whose changes are kept
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
        """Yield a folder with all that the guest reads.

        It is removed afterwards, or by the next job if this process is killed.
        """
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
        # A command can check SOFTROCE to find out whether it runs in the machine.
        environment = {**self.environment, "SOFTROCE": self.link.name}
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
    """Remove the folders of killed launchers: those that are not locked."""
    for folder in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        try:
            # The launcher of a new folder may not have locked it yet.
            if time.time() - folder.stat().st_mtime < 60:
                continue
            descriptor = _lock(folder)
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
