"""QEMU's command line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

from .job import Job

# Virtio ports from the guest to us: the command's standard output and error, and the reports of
# the guest.
PORTS = ("out", "err", "control")

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 oops=panic "  # a guest that fails ends
    "mitigations=off nokaslr tsc=reliable no_timer_check audit=0 apparmor=0 "
    "nowatchdog cryptomgr.notests edd=off "
    "random.trust_cpu=on "  # no other source would fill its pool soon
    "clearcpuid=112"  # rep_good, see CPU
)

# Without fast string instructions (and without rep_good, which the kernel assumes for every
# processor) the kernel copies with loops of ordinary instructions instead of `rep movsb`: a read of
# 1 MiB of a cached file took a seventh of the time in the emulator.
CPU = "max,-erms,-fsrm"


def command(
    job: Job, folder: Path, image: Path, cpus: int, memory: int, ports: Mapping[str, int]
) -> list[str]:
    """Return QEMU's command for `job`, which is written to `folder`.

    Args:
        ports: A file descriptor for each of PORTS.
    """
    machine, amount = "q35", f"{memory}M"
    if job.pmem:
        machine += ",nvdimm=on"
        most = memory + sum(dimm.size >> 20 for dimm in job.pmem) + 1024
        amount += f",slots={len(job.pmem)},maxmem={most}M"
    return [
        # If we are killed, so is QEMU.
        *("setpriv", "--pdeathsig=KILL", "qemu-system-x86_64"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *(
            "-machine",
            machine,
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            CPU,
            "-smp",
            str(cpus),
            "-m",
            amount,
        ),
        *("-kernel", str(image), "-initrd", str(folder / "initramfs")),
        *("-append", f'{KERNEL_ARGUMENTS} softroce_job="{folder}"'),
        *("-serial", f"file:{_escaped(folder / 'console')}"),
        *_tree("root", Path("/"), ",readonly=on"),
        *itertools.chain.from_iterable(
            _tree(f"share{i}", share.resolve()) for i, share in enumerate(job.shares)
        ),
        *("-device", "virtio-serial-pci"),
        *itertools.chain.from_iterable(_port(name, ports[name]) for name in PORTS),
        *itertools.chain.from_iterable(
            _dimm(i, dimm.file, dimm.size) for i, dimm in enumerate(job.pmem)
        ),
        *job.link.device,
    ]


def _tree(tag: str, path: Path, more: str = "") -> Iterable[str]:
    # remap: the tree may span several of this machine's file systems, whose inode numbers collide.
    yield from (
        "-fsdev",
        f"local,id={tag},path={_escaped(path)},security_model=none,multidevs=remap{more}",
    )
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _port(name: str, descriptor: int) -> Iterable[str]:
    # Always a pipe: QEMU would truncate a regular file.
    yield from ("-chardev", f"file,id={name},path=/proc/self/fd/{descriptor}")
    yield from ("-device", f"virtserialport,chardev={name},name={name}")


def _dimm(number: int, file: Path, size: int) -> Iterable[str]:
    yield from (
        "-object",
        f"memory-backend-file,id=memory{number},share=on,mem-path={_escaped(file)},size={size}",
    )
    yield from ("-device", f"nvdimm,id=nvdimm{number},memdev=memory{number}")


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")
