import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def private():
    """A directory of this user's alone; its path is short enough for a socket's, which pytest's own (in several processes) is not."""
    with tempfile.TemporaryDirectory(prefix="rfp-") as directory:
        yield Path(directory)
