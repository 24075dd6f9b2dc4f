"""Persistent, recoverable, shared data structures in memory that few back-ends own (rNVM / AsymNVM)."""

from rnvm.backend import Backend
from rnvm.connecting import connect

__all__ = ["Backend", "connect"]
