"""Until when a primary may answer: the rule that its service thread follows, in Python.

The model test runs it; rnvm/replication computes the same in C.

The promise
-----------
A mirror that acknowledges a frame promises not to open its pool as primary for `promise` after it
received that frame, by its own clock.  The primary may answer reads and acknowledge as persistent

    until  =  min over the required mirrors (when a frame was published that it has acknowledged)
              + promise * (1 - drift)

A frame is received after it was published, and the clocks of two hosts differ by at most `drift` in
rate, so no required mirror has opened its pool before that.  All others are not listed.

`until` never falls, so a reader may keep a value that it has read before:
- Alone, the primary extends it only up to now + promise * (1 - drift), as with a mirror.
- A mirror that joins is required before the change that lists it is sent, and that change waits for
  an acknowledgement of a frame that was published since.  So its promise covers all that was given.
- A sample is (the number of the next frame, now): that frame is published later than now.  The last
  published frame may have been received before now, and its promise may end earlier.
"""

from __future__ import annotations

from collections.abc import Iterable

PARTS = 1_000_000


class Serving:
    """Compute `until`, and the last frame that all required mirrors have.

    Args:
        promise: ns of a mirror's promise.
        drift: by how much two clocks may differ in rate, in millionths.

    Attributes:
        published: the number of the last frame.
        acked: the last frame that all required mirrors have; never falls.
        until: ns of the own clock; never falls.
    """

    def __init__(self, promise: int, drift: int) -> None:
        self.trusted = promise - promise * drift // PARTS
        self.published = 0
        self.acked = 0
        self.until = 0
        self.in_sync = 0
        self._slots: dict[int, _Slot] = {}

    def require(self, slots: Iterable[int], now: int, *, in_sync: int = 0) -> int:
        """Require exactly these slots; return the number of the next frame.

        Args:
            in_sync: how many of them the state lists, without those that are lost.
        """
        wanted = set(slots)
        self.in_sync = in_sync
        self._slots = {slot: self._slots.get(slot) or self._sampled(now) for slot in sorted(wanted)}
        return self.published + 1

    def publish(self) -> int:
        """Count a frame that is published now; return its number."""
        self.published += 1
        return self.published

    def ack(self, slot: int, frame: int, now: int) -> None:
        """Note that a mirror has all frames up to this one."""
        each = self._slots.get(slot)
        if each is None or not each.acked <= frame <= self.published:
            return
        each.acked = frame
        if frame >= each.sample:
            each.sent = each.sampled
            each.sample, each.sampled = self.published + 1, now

    def poll(self, now: int, *, min_mirrors: int = 0) -> None:
        """Compute `acked` and `until`."""
        if self.in_sync >= min_mirrors:
            acked = min([self.published, *(each.acked for each in self._slots.values())])
            self.acked = max(self.acked, acked)
        sent = min([now, *(each.sent for each in self._slots.values())])
        self.until = max(self.until, sent + self.trusted)

    def _sampled(self, now: int) -> _Slot:
        return _Slot(self.published + 1, now)


class _Slot:
    def __init__(self, sample: int, sampled: int) -> None:
        self.acked = 0
        self.sent = -(
            1 << 62
        )  # a time at or before the publication of a frame that it has acknowledged
        self.sample = sample  # the next frame that will tell more
        self.sampled = sampled  # a time before that frame was published
