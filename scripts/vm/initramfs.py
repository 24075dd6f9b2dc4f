"""The guest's initramfs: busybox, the modules for this machine's file tree, and `guest/init`."""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .errors import MachineError

MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay")
INIT = Path(__file__).parent / "guest" / "init"
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # an ordinary user's PATH lacks these


def build(release: str, target: Path) -> None:
    """Write the initramfs to `target`.

    It has 4 MB and takes a tenth of a second, so it is made for each boot and not kept.
    """
    busybox = shutil.which("busybox", path=SBIN)
    if busybox is None:
        raise MachineError("cannot find busybox (Debian: apt-get install busybox-static)")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("bin", "modules", "proc", "sys", "dev", "host", "memory", "root"):
            (root / name).mkdir()
        shutil.copy(busybox, root / "bin" / "busybox")
        (root / "bin" / "sh").symlink_to("busybox")
        names = [_copy(module, root / "modules") for module in _modules(release)]
        (root / "modules" / "order").write_text("".join(f"{name}\n" for name in names))
        shutil.copy(INIT, root / "init")
        files = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
        command = ["cpio", "--quiet", "--create", "--format=newc", "--owner=0:0"]
        with target.open("wb") as output:
            subprocess.run(command, input=files.encode(), stdout=output, cwd=root, check=True)


def _modules(release: str) -> list[Path]:
    """Return the files of MODULES and of their dependencies, in the order of insertion."""
    command = [
        "modprobe",
        "--set-version",
        release,
        "--ignore-install",
        "--show-depends",
        "--all",
        *MODULES,
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": SBIN}, check=False
    )
    if run.returncode != 0:
        raise MachineError(
            f"the kernel {release} lacks a module that the machine needs: {run.stderr.strip()}"
        )
    lines = [line.split(maxsplit=1) for line in run.stdout.splitlines()]
    return [
        Path(path)
        for path in dict.fromkeys(rest.split()[0] for word, rest in lines if word == "insmod")
    ]


def _copy(module: Path, folder: Path) -> str:
    """Copy a module, unpacked since busybox's insmod may not unpack; return its name there."""
    if module.suffix == ".xz":
        (folder / module.stem).write_bytes(lzma.decompress(module.read_bytes()))
        return module.stem
    shutil.copy(module, folder)
    return module.name
