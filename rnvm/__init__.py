"""Persistent, recoverable, shared data structures in memory that few back-ends own (rNVM / AsymNVM)."""

import os
from typing import TYPE_CHECKING

if not TYPE_CHECKING and os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
else:
    from rnvm.backend.backend import Backend
    from rnvm.connecting import connect

__all__ = ["Backend", "connect"]
