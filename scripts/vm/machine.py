"""A machine: QEMU, from its start to the exit status of the command in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import initramfs, qemu
from .errors import MachineError
from .job import Job
from .kernel import Kernel, unpacked

Sink = Callable[[bytes], None]

# One boot in some hundred hangs before the command has begun, so that it is safe to boot again.
BOOTS, BOOT_SECONDS = 3, 60
# Beyond the command's limit, which counts in the guest: what setting up and ending may take on a busy machine.
GRACE_SECONDS = 90


@dataclass
class Machine:
    """Runs one job, once: `status = await Machine(...).run()`.  Cancelling that, or `kill()`, is a power failure for the guest."""

    job: Job
    kernel: Kernel
    cache: Path  # a folder to keep the unpacked kernel in
    out: Sink  # what takes the command's standard output as it comes
    err: Sink  # ... and its standard error
    cpus: int = 2
    memory: int = 2048  # MiB; three quarters of it hold what the command writes
    boot_seconds: float = BOOT_SECONDS
    _pidfd: int | None = field(default=None, init=False)

    async def run(self) -> int:
        """The command's exit status (124 if it has run into its limit); MachineError if there is none."""
        with contextlib.ExitStack() as stack:
            for image in self.job.pmem:
                stack.enter_context(image.inserted())
            folder = stack.enter_context(self.job.folder())
            initramfs.build(self.kernel.release, folder / "initramfs")
            for _ in range(BOOTS):
                status = await self._boot(folder)
                if status is not None:
                    return status
            raise MachineError(f"the machine did not come up in {self.boot_seconds:g} s, {BOOTS} times" + _last_words(folder))

    def kill(self) -> None:
        """SIGKILL to QEMU.  `run` raises MachineError then."""
        # Not by asyncio's Process: its kill() may reap the child, whose status asyncio then misses.
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _boot(self, folder: Path) -> int | None:
        """The command's exit status; None if the machine hung before the command began."""
        ports = {name: os.pipe() for name in qemu.PORTS}
        writers = {name: writer for name, (_, writer) in ports.items()}
        image = unpacked(self.kernel, self.cache)
        with (folder / "qemu").open("wb") as messages:
            process = await asyncio.create_subprocess_exec(
                *qemu.command(self.job, folder, image, self.cpus, self.memory, writers),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                pass_fds=tuple(writers.values()),
                start_new_session=True,  # Ctrl-C is for us alone
            )
        self._pidfd = os.pidfd_open(process.pid)
        for writer in writers.values():
            os.close(writer)
        guest = _Guest(self.job)
        sinks = {"out": self.out, "err": self.err, "control": guest.hear}
        copies = asyncio.gather(*(_copy(reader, sinks[name]) for name, (reader, _) in ports.items()))
        try:
            await asyncio.wait({guest.up, copies}, timeout=self.boot_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not (guest.up.done() or copies.done()):
                return None
            await asyncio.wait_for(copies, self.job.limit + GRACE_SECONDS)
        except asyncio.TimeoutError:
            raise MachineError("the machine hung, and was killed" + _last_words(folder)) from None
        finally:
            self.kill()
            await process.wait()
            await asyncio.wait({copies})
            os.close(self._pidfd)
            self._pidfd = None
        if guest.status is None:
            raise MachineError((guest.complaint or "the machine ended before the command did") + _last_words(folder))
        return guest.status


class _Guest:
    """What the guest has said on its control port."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status: int | None = None
        self.complaint = ""
        self._partial = b""

    def hear(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"up"]:
                    self.up.set_result(None)
                case [b"ready"]:
                    for image in self.job.pmem:
                        image.formatted()
                case [b"failed"]:
                    self.complaint = "the machine's devices could not be set up"
                case [b"status", status]:
                    self.status = int(status)


async def _copy(descriptor: int, sink: Sink) -> None:
    """Gives the sink what arrives, until the other end is closed."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(descriptor, "rb"))
    try:
        while data := await reader.read(1 << 16):
            sink(data)
    finally:
        transport.close()


def _last_words(folder: Path) -> str:
    """What QEMU and the guest's kernel said last."""
    text = "".join((folder / name).read_text(errors="replace") for name in ("qemu", "console") if (folder / name).exists())
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-15:])
