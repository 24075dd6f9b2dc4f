"""A coordinator in this process, for tests of the driver: it answers at once, or as they say."""

from __future__ import annotations

import itertools
import threading

from rnvm.coordinator.address import parse
from rnvm.coordinator.attempt import Attempt
from rnvm.coordinator.contract import Coordinator
from rnvm.coordinator.registration import Member, Registration
from rnvm.coordinator.state import State
from rnvm.coordinator.watch import Watch

ADDRESS = "etcd://memory:1/orders"


class Service:
    """One group.

    Attributes:
        reads: how many reads it has answered.
        registered: how many registrations have begun.
        refused: exceptions that the next registrations raise.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.version = 0
        self.state: State | None = None
        self.members: dict[int, Member] = {}
        self.ids = itertools.count()
        self.reads = self.registered = 0
        self.refused: list[Exception] = []

    def open(self, address: object, *, timeout: float = 5.0) -> Coordinator:
        """As `open_coordinator`."""
        assert str(address) == ADDRESS
        return _Coordinator(self, timeout)

    def note(self) -> None:
        """The state or the members have changed; the lock is held."""
        self.version += 1
        self.changed.notify_all()


class _Coordinator(Coordinator):
    def __init__(self, service: Service, timeout: float) -> None:
        super().__init__(parse(ADDRESS), timeout=timeout)
        self.service = service

    def _read(self, attempt: Attempt) -> State | None:
        self.service.reads += 1
        return self.service.state

    def _create(self, state: State, attempt: Attempt) -> bool:
        with self.service.changed:
            if self.service.state is not None:
                return False
            self.service.state = state
            self.service.note()
            return True

    def _set(self, old: State, new: State, attempt: Attempt) -> bool:
        with self.service.changed:
            if self.service.state is None or self.service.state.id != old.id:
                return False
            self.service.state = new
            self.service.note()
            return True

    def _members(self, attempt: Attempt) -> list[Member]:
        with self.service.changed:
            return list(self.service.members.values())

    def _registration(self, member: Member, lease: float) -> Registration:
        return _Registration(self, member, lease)

    def _follow(self, watch: Watch) -> None:
        service = self.service
        with service.changed:
            watch.interrupt = self._wake
            seen = -1
            while not watch.closing.is_set():
                if service.version == seen:
                    service.changed.wait(5)
                seen = service.version
                watch.hint()

    def _wake(self) -> None:
        with self.service.changed:
            self.service.changed.notify_all()

    def _shut(self) -> None:
        pass


class _Registration(Registration):
    def __init__(self, coordinator: _Coordinator, member: Member, lease: float) -> None:
        super().__init__(coordinator._registrations, member, lease)
        self.service = coordinator.service
        self.number = next(self.service.ids)
        if self.service.refused:
            raise self.service.refused.pop(0)

    def _run(self) -> None:
        with self.service.changed:
            self.service.members[self.number] = self.member
            self.service.registered += 1
            self.service.note()
        self._registered.set()
        self._closing.wait()

    def _withdraw(self) -> None:
        with self.service.changed:
            self.service.members.pop(self.number, None)
            self.service.note()
