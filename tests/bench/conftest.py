"""What the benchmark's tests share."""

import pytest


@pytest.fixture
def drawing():
    """matplotlib, which keeps the files of its fonts open until told otherwise."""
    pytest.importorskip("matplotlib")
    from matplotlib import font_manager

    yield
    font_manager._get_font.cache_clear()
