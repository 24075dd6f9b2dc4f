"""RFP_ASSERT from Python: whether this build contains assertions, and one that fails on request."""

from rfp.core.core cimport RFP_ASSERT, RFP_ASSERTS


def enabled():
    """Return whether this build contains assertions."""
    return RFP_ASSERTS


def require_positive(int number):
    """Assert, without the GIL, that the number is positive; a no-op without assertions."""
    with nogil:
        RFP_ASSERT(number > 0)
