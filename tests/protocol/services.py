"""RPC servers in processes of their own, for tests that stop, kill or block them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import python_programs

SERVER = """
import ctypes, os, signal, sys, time
import rfp

hold = ctypes.PyDLL(None).usleep      # a call through PyDLL keeps the GIL

def handler(request):
    if request == b"sleep":
        time.sleep(30)
    return request[::-1]

with rfp.RpcServer(handler, sys.argv[1], max_message=4096, slots=4) as server:
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "hold":
            print("holding", flush=True)
            hold(2_000_000)
            print("held", flush=True)
"""

CLIENT = """
import sys, time
import rfp

with rfp.RpcClient(sys.argv[1]) as client:
    client.call(b"here")
    print("ready", flush=True)
    while True:
        client.call(b"x" * 1000)
"""


def wait_for_word(process: subprocess.Popen[bytes], word: str) -> None:
    """Wait until the process has printed this word."""
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == word


@contextlib.contextmanager
def started(program: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that runs one of the programs above, once it is ready; kill it at the end."""
    with python_programs.start(
        "-c", program, address, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            wait_for_word(process, "ready")
            yield process
        finally:
            process.kill()
