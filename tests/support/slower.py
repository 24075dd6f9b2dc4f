"""How much slower this run is than an ordinary one: time-outs of the tests grow with it."""

import os

SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
EMULATED = "SOFTROCE" in os.environ  # in the machine of scripts/softroce
SLOWER = 8 if EMULATED else 4 if SANITIZED else 1


def examples(most: int) -> int:
    """Return the examples of a hypothesis test that states their number: fewer under sanitizers.

    They examine memory, and not the answers.
    """
    return max(4, most // 4) if SANITIZED else most


def rounds(most: int, least: int = 1) -> int:
    """Return how often a test repeats something: less often where each time takes longer."""
    return max(least, most // SLOWER)
