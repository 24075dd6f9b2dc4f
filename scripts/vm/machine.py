"""A machine: QEMU, from its start to the exit status of the command in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
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
TIMED_OUT = (124, 137)  # timeout(1)'s status: ended when asked to, or killed


@dataclass
class Machine:
    """Runs one job, once: `status = await Machine(...).run()`.  Cancelling that, or `kill()`, is the guest's power failure."""

    job: Job
    kernel: Kernel
    cache: Path  # a folder to keep the unpacked kernel in
    out: Sink  # what takes the command's standard output as it comes
    err: Sink  # ... and its standard error
    cpus: int = 2
    memory: int = 2048  # MiB; three quarters of it hold what the command writes
    boot_seconds: float = BOOT_SECONDS
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

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
                hung = f"the machine did not boot in {self.boot_seconds:g} s{_last_words(folder)}"
                self.err(f"softroce: {hung}\n".encode())
            raise MachineError(hung)

    def kill(self) -> None:
        """SIGKILL to QEMU.  `run` raises MachineError then."""
        if self._process is not None:
            self._process.kill()

    async def _boot(self, folder: Path) -> int | None:
        """The command's exit status; None if the machine hung before the command began."""
        guest = _Guest(self.job)
        sinks = {"out": self.out, "err": self.err, "control": guest.hear}
        self._process, ports = self._start(folder)
        # They end when QEMU does, in whichever way.
        copies = asyncio.gather(*(_copy(ports[name], sink) for name, sink in sinks.items()))
        try:
            await asyncio.wait(
                {guest.begun, copies},
                timeout=self.boot_seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not (guest.begun.done() or copies.done()):
                return None
            await asyncio.wait_for(copies, self.job.limit + GRACE_SECONDS)
        except asyncio.TimeoutError:
            raise MachineError("the machine hung and was killed" + _last_words(folder)) from None
        finally:
            self._process.kill()
            self._process.wait()
            await asyncio.wait({copies})
        if guest.status in TIMED_OUT and guest.took >= self.job.limit:
            self.err(
                f"softroce: the command timed out after {self.job.limit:g} s and was killed\n".encode()
            )
        if guest.status is None:
            raise MachineError(
                (guest.complaint or "the machine exited before the command") + _last_words(folder)
            )
        return guest.status

    def _start(self, folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
        """QEMU, and our ends of its ports."""
        image = unpacked(self.kernel, self.cache)
        pipes = {name: os.pipe() for name in qemu.PORTS}
        writers = {name: writer for name, (_, writer) in pipes.items()}
        command = qemu.command(self.job, folder, image, self.cpus, self.memory, writers)
        options = {
            "pass_fds": tuple(writers.values()),
            "start_new_session": True,
        }  # a session: Ctrl-C is for us alone
        try:
            with (folder / "qemu").open("wb") as says:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=says, stderr=says, **options
                )
        finally:
            for writer in writers.values():
                os.close(writer)
        return process, {name: reader for name, (reader, _) in pipes.items()}


class _Guest:
    """What the guest has said on its control port."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.begun: asyncio.Future[None] = (
            asyncio.get_running_loop().create_future()
        )  # the command, or not for a reason
        self.status: int | None = None
        self.complaint = ""
        self.took = 0.0  # seconds from there to the status
        self._began = 0.0
        self._partial = b""

    def hear(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"ready"]:
                    self._began = time.monotonic()
                    for image in self.job.pmem:
                        image.formatted()
                    self.begun.set_result(None)
                case [b"failed"]:
                    self.complaint = "cannot set up the machine's devices"
                    self.begun.set_result(None)
                case [b"status", status]:
                    self.status = int(status)
                    self.took = time.monotonic() - self._began


async def _copy(descriptor: int, sink: Sink) -> None:
    """Gives the sink what arrives, until the other end is closed."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: protocol, os.fdopen(descriptor, "rb")
    )
    try:
        while data := await reader.read(1 << 16):
            sink(data)
    finally:
        transport.close()


def _last_words(folder: Path) -> str:
    """What QEMU and the guest's kernel said last."""
    text = "".join(
        (folder / name).read_text(errors="replace")
        for name in ("qemu", "console")
        if (folder / name).exists()
    )
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-15:])
