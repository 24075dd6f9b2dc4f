"""Persistent, recoverable, shared data structures in memory that few back-ends own (rNVM / AsymNVM)."""

import rfp  # noqa: F401  its ImportError explains what a checkout's folder shadows
from rnvm.backend.backend import Backend
from rnvm.connecting import connect

__all__ = ["Backend", "connect"]
