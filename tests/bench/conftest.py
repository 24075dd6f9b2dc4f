"""The fixtures of the benchmark's tests."""

import needed
import pytest


@pytest.fixture
def drawing():
    """matplotlib, whose cache of open font files is cleared at the end."""
    needed.module("matplotlib")
    from matplotlib import font_manager

    yield
    font_manager._get_font.cache_clear()
