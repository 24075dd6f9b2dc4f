import pytest


@pytest.fixture
def private(tmp_path):
    """A directory of this user's alone, short enough for the path of a socket."""
    directory = tmp_path / "private"
    directory.mkdir(mode=0o700)
    return directory
