"""A program ends cleanly with any handles and servers open."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

START = """
import os, sys, threading, time, rfp
server = rfp.Server(memory="16MiB", workers=2)
kv = rfp.connect(server.address, mode="fetch", timeout=30)
kv.put(b"large", bytes(1 << 20))
kv.get(b"large")
"""

ENDINGS = {
    "with everything open": "",
    "with an open server": "kv.close()",
    "with an open client": "server.close()",
    "by an exception": "sys.excepthook = lambda *error: None; raise ValueError",
    "by sys.exit": "sys.exit(0)",
    "from a thread that still calls": """
def call():
    try:
        while True: kv.get(b"large")
    except rfp.RfpError: pass                  # the program's end closes the handle during a call
threading.Thread(target=call, daemon=True).start()
while kv.stats()["gets"] < 100: pass
""",
    "with threads that have called": """
threads = [threading.Thread(target=kv.get, args=(b"large",)) for _ in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    "with handles in a cycle": "class Holder: pass\n"
    "h = Holder(); h.me = h; h.kv = kv; h.server = server; del kv, server, h",
    "with handles in a thread-local": "local = threading.local()\n"
    "local.kv = kv; local.server = server",
    "with a handle in a module": "import json\njson.kv = kv; json.server = server; del kv, server",
    "by closing in the wrong order": "server.close(); kv.close(); server.close()",
    "with rfp.Server that failed": "\n"
    "try: rfp.Server(memory='8MiB', address=server.address)\nexcept OSError: pass",
    "after the package's modules were removed": "for name in ('rfp', 'rfp.server', 'rfp.errors'): "
    "del sys.modules[name]",
    "in an atexit function that calls": "import atexit\n"
    "atexit.register(lambda: print(end='') or quiet())\n"
    "def quiet():\n    try: kv.get(b'large')\n    except rfp.RfpError: pass",
}


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


def files_left() -> list[str]:
    runtime = Path(os.environ["XDG_RUNTIME_DIR"])
    return [str(path) for path in runtime.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_without_output_and_leaves_no_files(ending: str) -> None:
    before = files_left()
    done = run(START + ENDINGS[ending])
    assert (done.returncode, done.stdout, done.stderr) == (
        1 if ending == "by an exception" else 0,
        "",
        "",
    )
    assert files_left() == before


def test_a_programs_exit_does_not_wait_for_a_stopped_server(start: Callable[..., Any]) -> None:
    server = start("server")
    client = start("client")
    client.do("kv.put(b'k', b'v')")
    server.stop()
    client.do(
        "import contextlib\n"
        "with contextlib.suppress(errors.DeadlineExceeded): kv.get(b'k', timeout=0.05)"
    )
    client.do("kv = None if os.getpid() % 2 else kv")  # collected, or open at the exit
    client.close()
    assert server.process.poll() is None


@pytest.mark.parametrize(
    "call",
    [
        "kv.get(b'k')",
        "kv.get_many([b'k'] * 50)",
        "kv.put(b'k', b'v')",
        "kv.put(b'k', bytes(1 << 20))",
    ],
)
def test_ctrl_c_interrupts_a_call_that_waits(call: str) -> None:
    program = f"""if True:
        import os, signal, subprocess, sys, threading, rfp
        code = "import rfp, sys; s = rfp.Server(memory='8MiB'); print(s.address, flush=True); " \\
            "sys.stdin.read(); s.close()"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True, start_new_session=True)
        def interrupt():
            while not any(channel.busy for channel in kv.connection.channels): pass
            os.kill(os.getpid(), signal.SIGINT)
        try:
            kv = rfp.connect(child.stdout.readline().strip(), mode="fetch", timeout=60)
            kv.ping()
            os.kill(child.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED)  # it may go on for a moment
            threading.Thread(target=interrupt).start()
            try:
                {call}
            except KeyboardInterrupt:
                print("interrupted")
            os.kill(child.pid, signal.SIGCONT)
            kv.put(b"k", b"after")
            print(kv.get(b"k"))
            kv.close()
        finally:
            os.kill(child.pid, signal.SIGCONT)
            child.communicate("")
    """
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nb'after'\n", "")


def test_handles_work_in_exit_functions_that_were_registered_before_the_import() -> None:
    program = """if True:
        import atexit, logging, logging.handlers, os, shutil, tempfile, weakref
        folder = tempfile.mkdtemp(dir=os.environ["TESTS_MEMORY"])
        atexit.register(shutil.rmtree, folder)                  # the last of all
        atexit.register(lambda: (kv.put(b"state", b"saved"), print("state:", kv.get(b"state"))))
        class Thing: pass
        thing = Thing()
        weakref.finalize(thing, lambda: print("finalized:", kv.get(b"early")))
        import rfp, rnvm, structures
        class Store(logging.Handler):
            def emit(self, record):
                kv.put(b"log", self.format(record).encode())
                print("log:", kv.get(b"log"))
        server = rfp.Server(memory="8MiB")                      # of this very process
        kv = rfp.connect(server.address)
        logging.getLogger().addHandler(logging.handlers.MemoryHandler(100, target=Store()))
        logging.warning("the last words")
        backend = rnvm.Backend(folder + "/p", size="4MiB", assume_persistent=True)
        queue = structures.Queue(rnvm.connect(backend.address), "q")
        atexit.register(lambda: (queue.put(b"late"), print("queue:", queue.get())))
        kv.put(b"early", b"was there")
    """
    before = files_left()
    done = run(program)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert done.stdout.splitlines() == [
        "queue: b'late'",
        "finalized: b'was there'",
        "state: b'saved'",
        "log: b'the last words'",
    ]
    assert files_left() == before


def test_the_hint_of_a_call_at_the_interpreters_end_names_atexit() -> None:
    program = """if True:
        import rfp
        server = rfp.Server(memory="8MiB")
        kv = rfp.connect(server.address)
        class Late:
            def __del__(self, kv=kv, print=print, Closed=rfp.errors.Closed):
                try: kv.put(b"k", b"v")
                except Closed as error: print(error.hint)
        late = Late()
    """
    done = run(program)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert "registered with atexit" in done.stdout
