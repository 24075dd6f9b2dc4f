"""The guest's kernel: this machine's own distribution kernel, uncompressed.

Under emulation a kernel takes seconds to unpack itself.  QEMU also boots an uncompressed ELF image
(PVH), so the kernel is unpacked here, once, and kept in the user's cache.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .errors import MachineError

# The x86 boot protocol: the offsets of a bzImage's magic number, of the length of its set-up code,
# and of the position of the packed kernel after it.
MAGIC, SETUP_SECTORS, PAYLOAD = 0x202, 0x1F1, 0x248
UNPACK: dict[bytes, Callable[[bytes], bytes]] = {
    b"\xfd7zXZ\0": lambda data: lzma.LZMADecompressor().decompress(data),
    b"\x1f\x8b": lambda data: zlib.decompressobj(wbits=31).decompress(data),
}


@dataclass(frozen=True)
class Kernel:
    """A kernel image and the release whose modules belong to it."""

    release: str
    image: Path


def find(boot: Path, modules: Path = Path("/lib/modules")) -> Kernel:
    """Return the newest kernel in the folder `boot` that has a soft-RoCE module."""
    kernels = {path.name.removeprefix("vmlinuz-"): path for path in boot.glob("vmlinuz-*")}
    able = [
        release
        for release in kernels
        if any(modules.glob(f"{release}/kernel/drivers/infiniband/sw/rxe/rdma_rxe.ko*"))
    ]
    if not able:
        found = (
            f"no module rdma_rxe in {modules} for {', '.join(sorted(kernels))}"
            if kernels
            else "there is no vmlinuz-*"
        )
        raise MachineError(
            f"no kernel for the machine in {boot}: {found} "
            "(Debian: apt-get install linux-image-amd64)"
        )
    newest = max(able, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])
    return Kernel(newest, kernels[newest])


def unpacked(kernel: Kernel, cache: Path) -> Path:
    """Return the kernel's ELF image, from the cache if it was unpacked before.

    A kernel of unknown compression is returned as it is.
    """
    stamp = kernel.image.stat()
    target = cache / f"vmlinux-{kernel.release}-{stamp.st_mtime_ns:x}-{stamp.st_size:x}"
    if target.exists():
        return target
    data = kernel.image.read_bytes()
    if data[MAGIC : MAGIC + 4] != b"HdrS":
        return kernel.image
    offset, length = struct.unpack_from("<II", data, PAYLOAD)
    start = (data[SETUP_SECTORS] + 1) * 512 + offset
    packed = data[start : start + length]
    for magic, unpack in UNPACK.items():
        if packed.startswith(magic):
            elf = unpack(packed)
            break
    else:
        return kernel.image
    if not elf.startswith(b"\x7fELF"):
        raise MachineError(
            f"{kernel.image} does not contain a kernel: it does not unpack to an ELF image"
        )
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"vmlinux-{kernel.release}-*"):
        old.unlink(missing_ok=True)
    # Another machine that starts now sees either the whole file or none.
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(elf)
    temporary.rename(target)
    return target
