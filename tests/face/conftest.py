import gc
import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))  # for control_tools


def open_fds() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own
            pass
    return found


@pytest.fixture(autouse=True)
def no_file_descriptor_is_leaked():
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    after = open_fds()
    leaked = {fd: place for fd, place in after.items() if fd not in before}
    assert not leaked


@pytest.fixture
def private(tmp_path):
    """A directory of this user's alone, short enough for the path of a socket."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    return directory
