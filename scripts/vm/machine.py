"""A machine: QEMU, from its start to the exit status of the command in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
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

# One boot in some hundred hangs before the command has begun, so that it is safe to boot again.  On
# a busy computer each one takes longer: the next one gets twice the time.
BOOTS, BOOT_SECONDS = 3, 60
# Beyond the command's limit, which counts in the guest: the time for setting up and ending on a
# busy machine.
GRACE_SECONDS = 90
TIMED_OUT = (124, 137)  # timeout(1)'s status: ended by the signal, or killed


@dataclass
class Machine:
    """A machine that runs one job, once: `status = await Machine(...).run()`.

    Cancelling that call, or `kill()`, is the guest's power failure.
    """

    job: Job
    kernel: Kernel
    cache: Path  # the folder in which the unpacked kernel is kept
    out: Sink  # gets the command's standard output as it comes
    err: Sink  # ... and its standard error
    cpus: int = 2
    memory: int = 2048  # MiB; three quarters of it are for files that the command writes
    boot_seconds: float = BOOT_SECONDS
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    async def run(self) -> int:
        """Return the command's exit status (124 if it timed out).

        Raises:
            MachineError: The machine ended without an exit status.
        """
        with contextlib.ExitStack() as stack:
            for image in self.job.pmem:
                stack.enter_context(image.inserted())
            folder = stack.enter_context(self.job.folder())
            initramfs.build(self.kernel.release, folder / "initramfs")
            for boot in range(BOOTS):
                seconds = self.boot_seconds * 2**boot
                status = await self._boot(folder, seconds)
                if status is not None:
                    return status
                hung = f"the machine did not boot in {seconds:g} s{_last_lines(folder)}"
                self.err(f"softroce: {hung}\n".encode())
            raise MachineError(hung)

    def kill(self) -> None:
        """Send SIGKILL to QEMU; `run` then raises MachineError."""
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """Stop the processors of the machine; its clocks go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the machine go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    async def _boot(self, folder: Path, seconds: float) -> int | None:
        """Return the command's exit status, or None if the machine hung before its begin."""
        guest = _Guest(self.job)
        sinks = {"out": self.out, "err": self.err, "control": guest.on_data}
        self._process, ports = self._start(folder)
        # They end when QEMU does, in whichever way that ends.
        copies = asyncio.gather(*(_copy(ports[name], sink) for name, sink in sinks.items()))
        try:
            await asyncio.wait(
                {guest.begun, copies},
                timeout=seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not (guest.begun.done() or copies.done()):
                return None
            await asyncio.wait_for(copies, self.job.limit + GRACE_SECONDS)
        except asyncio.TimeoutError:
            raise MachineError("the machine hung and was killed" + _last_lines(folder)) from None
        finally:
            self._process.kill()
            self._process.wait()
            await asyncio.wait({copies})
        if guest.status in TIMED_OUT and guest.took >= self.job.limit:
            limit = f"{self.job.limit:g} s"
            self.err(f"softroce: the command timed out after {limit} and was killed\n".encode())
        if guest.status is None:
            raise MachineError(
                (guest.failure or "the machine exited before the command") + _last_lines(folder)
            )
        return guest.status

    def _start(self, folder: Path) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
        """Start QEMU; return its process, and our ends of its ports."""
        image = unpacked(self.kernel, self.cache)
        pipes = {name: os.pipe() for name in qemu.PORTS}
        writers = {name: writer for name, (_, writer) in pipes.items()}
        command = qemu.command(self.job, folder, image, self.cpus, self.memory, writers)
        # A session of its own: Ctrl-C is for this process alone.
        options = {"pass_fds": tuple(writers.values()), "start_new_session": True}
        try:
            with (folder / "qemu").open("wb") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
                )
        finally:
            for writer in writers.values():
                os.close(writer)
        return process, {name: reader for name, (reader, _) in pipes.items()}


class _Guest:
    """The state of the guest, as reported on its control port."""

    def __init__(self, job: Job) -> None:
        self.job = job
        # Done when the command has begun, or could not begin.
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status: int | None = None
        self.failure = ""
        self.took = 0.0  # seconds from the beginning of the command to its status
        self._began = 0.0
        self._partial = b""

    def on_data(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            match line.split():
                case [b"ready"]:
                    self._began = time.monotonic()
                    for image in self.job.pmem:
                        image.formatted()
                    self.begun.set_result(None)
                case [b"failed"]:
                    self.failure = "cannot set up the machine's devices"
                    self.begun.set_result(None)
                case [b"status", status]:
                    self.status = int(status)
                    self.took = time.monotonic() - self._began


async def _copy(descriptor: int, sink: Sink) -> None:
    """Pass the data to the sink, until the other end is closed."""
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


def _last_lines(folder: Path) -> str:
    """Return the last lines of QEMU and of the guest's kernel."""
    text = "".join(
        (folder / name).read_text(errors="replace")
        for name in ("qemu", "console")
        if (folder / name).exists()
    )
    lines = [line for line in text.splitlines() if line.strip()]
    return "".join(f"\n  {line}" for line in lines[-15:])
