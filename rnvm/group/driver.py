"""`rnvm.GroupMember`: a member of a group, which is its primary or a mirror, and changes between.

One thread runs the state machine (rnvm.group.member).  It never waits for the coordinator: calls
of the coordinator are made by threads of their own, whose outcomes are events.  What a front-end or
a mirror waits for is done by the back-end's service thread, without Python.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import stat
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from rfp import address as addresses
from rfp.address import Address
from rfp.control import Credentials
from rfp.core.at_exit import at_exit
from rfp.core.choices import IDLES
from rfp.core.forks import in_child
from rfp.core.log import Log
from rfp.errors import (
    Closed,
    ConnectionFailed,
    DeadlineExceeded,
    GroupDamaged,
    GroupNotFound,
    PoolDamaged,
    PoolInUse,
    PoolRefused,
    RfpError,
    StorageFailed,
    VersionMismatch,
    bad_choice,
    not_copied,
    out_of_bounds,
)
from rfp.units import checked_seconds
from rnvm import pools
from rnvm.backend.backend import Backend, check_times
from rnvm.coordinator.address import CoordinatorAddress
from rnvm.coordinator.opening import open_coordinator
from rnvm.coordinator.registration import Registration
from rnvm.coordinator.state import State
from rnvm.group import events as ev
from rnvm.group import registered
from rnvm.group import state as states
from rnvm.group.events import Copy, Seen
from rnvm.group.member import SECOND_NS, Member, Role, Times
from rnvm.group.member_lock import MemberLock
from rnvm.group.registered import Registered
from rnvm.group.state import Listed, checked_member
from rnvm.media import identity
from rnvm.mirror.follower import OVERRUN, Follower, StreamEnded
from rnvm.mirror.mirror import REQUESTED_BYTES_MAX, WAIT_S_MAX, Mirror

log = Log("rnvm")

TURN_S = 0.03  # between two polls of the mirrors and the back-end
TURN_NS = 100_000_000
OPEN_NS = 10 * SECOND_NS  # wait for a tool that has the pool open; longer if no other copy is left
LEASE_S = 2.0  # of the registration
_PASSING = {Role.STARTING, Role.UNFOLLOWING, Role.CANDIDATE, Role.ELECTED, Role.OPENING,
            Role.CLAIMING, Role.BEGINNING, Role.STOPPING}  # fmt: skip


_PEER_ACCESS = ("secret", "secret_file", "tls_cert", "tls_key", "tls_ca")
_TIMES = ("lease", "snapshot_lifetime", "mirror_patience")
_BACKEND_OPTIONS = {*_PEER_ACCESS, *_TIMES, "no_auth", "idle", "cpus", "force_flush", "fabric"}


def _check_options(options: dict[str, Any]) -> None:
    """Raise now what the back-end would raise when this member is elected, perhaps months later.

    Raises:
        TypeError, InvalidArgument, WrongType: An option is unknown, or its value is not valid.
    """
    for name in options.keys() - _BACKEND_OPTIONS:
        raise TypeError(f"GroupMember() got an unexpected keyword argument {name!r}")
    check_times(**{name: options[name] for name in _TIMES if name in options})
    if (idle := options.get("idle", IDLES[0])) not in IDLES:
        raise bad_choice("idle", idle, IDLES)
    secret, file, cert, key, authorities = (options.get(name) for name in _PEER_ACCESS)
    Credentials.of(secret, file, cert, key, authorities)


def boot_now() -> int:
    """Return ns of the clock of promises, which also counts while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class _Worker:
    """A thread that makes calls of the coordinator, one after the other."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                log.exception("a call of %s failed", self._thread.name)

    def submit(self, call: Callable[[], None]) -> None:
        self._calls.put(call)

    def close(self, timeout: float) -> None:
        self._calls.put(None)
        self._thread.join(timeout)


class _GroupMirror(Mirror):
    """A mirror that follows one primary in one epoch, and ends when the connection is lost."""

    _in_group = True

    def __init__(self, path: str, *, of: str, name: str, epoch: int, stream: int,
                 tell: Callable[[ev.Event], None], **access: Any) -> None:  # fmt: skip
        self._epoch, self._stream, self._tell, self._lost = epoch, stream, tell, ""
        super().__init__(path, of=of, name=name, **access)

    def _follow_primary(self) -> None:
        try:
            self._connect_and_follow(self._stream)
        except Closed:
            raise
        except (RfpError, OSError, MemoryError) as error:
            if self._file.failed:
                raise
            # Whatever else it is (no room, a wrong secret, another pool), a later try may succeed.
            if isinstance(error, StreamEnded) and error.reason == OVERRUN:
                self._stream = min(2 * int(self._last["stream"]), REQUESTED_BYTES_MAX)
            self._lost = str(error)
        if not self._closing:
            self._set("waiting")
            self._tell(ev.FollowEnded(self._lost))

    def _before_open(self, follower: Follower) -> None:
        if follower.epoch != self._epoch:
            raise ConnectionFailed(
                f"{self.address} is open in epoch {follower.epoch}, not {self._epoch}"
            )
        # Not earlier: until an open primary of that epoch has answered, the copy may be the last.
        self._tell(ev.CopyChanged(""))

    def _whole(self, follower: Follower) -> None:
        self._tell(ev.CopyChanged(follower.identity_bytes.hex()))

    @staticmethod
    def _shown(follower: Follower) -> dict[str, Any]:
        return {**Mirror._shown(follower), "promised_at": follower.promised_at}


class GroupMember:
    """Be a member of a group: mirror its primary, or be it.

    The member's pool is at `path`.  If it is listed in the group's state, it may become the primary
    and is then served at `address`; else it is compared with the primary's and joins.

    Args:
        path: Path of the pool; made if it does not exist.
        group: `etcd://HOST:PORT[,...]/GROUP` or `zk://HOST:PORT[,...]/GROUP`.
        member: The member's name, of at most 31 characters; unique in the group.
        address: Address to listen at as primary; None for a new one on this host.
        lease: As of `Backend`.
        secret, secret_file, tls_cert, tls_key, tls_ca: As of `Backend`; also for the connection to
            the primary.

    Raises:
        InvalidAddress, InvalidArgument: An argument is not valid.
        NotAPool, PoolInUse, PoolDamaged, FabricError: The pool cannot be used.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        group: str | CoordinatorAddress,
        member: str,
        address: str | Address | None = None,
        times: Times | None = None,
        on_change: Callable[[str], None] | None = None,
        **options: Any,
    ) -> None:
        self.path = pools.checked_path(path)
        self.name = checked_member(member)
        self.address = str(addresses.unique() if address is None else addresses.parse(address))
        _check_options(options)
        self._options = options
        self._access = {
            key: options[key] for key in (*_PEER_ACCESS, "fabric") if options.get(key) is not None
        }
        if times is not None and times.promise < SECOND_NS:
            # What the primary's service thread counts on is a constant.
            raise out_of_bounds("times.promise", times.promise, SECOND_NS, 2**63 - 1)
        self._on_change = on_change
        self._events: queue.SimpleQueue[ev.Event] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self._backend: Backend | None = None
        self._mirror: _GroupMirror | None = None
        self._reopening: tuple[int, ev.Open] | None = None  # until when, if a tool has the pool
        self._stream = 0
        self._heard = -1
        self._promised = 0
        self._registration: Registration | None = None
        self._registering: tuple[Listed, str] | None = None
        self._shown = Role.STARTING  # the last role that was published
        self._known: dict[Listed, str] = {}  # addresses of registered members
        self._proposals: dict[int, State] = {}
        self._leveled: dict[int, tuple[bool, int]] = {}  # ticket -> (lost was told, acked)
        self._decisions: list[tuple[int | None, dict[int, str]]] = []
        self._decided = 0
        self._deciding: int | None = None
        self._error: BaseException | None = None
        self._closed = False
        with contextlib.ExitStack() as undo:
            self._lock = MemberLock(self.path)
            undo.callback(self._lock.close)
            copy = self._read_copy()
            self._coordinator = open_coordinator(group)
            undo.callback(self._coordinator.close)
            # Another process of this member may have promised until it released the lock.
            self._machine = Member(copy, boot_now(), times)
            self._watch = self._coordinator.watch()
            self._workers = {
                name: _Worker(f"rnvm-group-{name}") for name in ("read", "change", "register")
            }
            self._thread = threading.Thread(target=self._run, name="rnvm-group", daemon=True)
            self._thread.start()
            undo.pop_all()
        _members.add(self)

    # What is seen

    @property
    def role(self) -> str:
        """Return what the member does: "primary", "mirror", "starting", "candidate" ..."""
        return self._machine.role.value

    @property
    def epoch(self) -> int:
        """Return the highest epoch that this member has seen."""
        return self._machine.copy.epoch

    @property
    def in_sync(self) -> bool:
        """Return whether the last state that it read lists its copy."""
        return self._machine.listed

    @property
    def trouble(self) -> str:
        """Return why something waits, or ""."""
        return self._machine.trouble

    @property
    def failed(self) -> bool:
        """Return whether the member has ended for a reason that `error` has."""
        return self._error is not None or self._machine.role is Role.FAILED

    @property
    def error(self) -> BaseException | None:
        """Return that reason, or None."""
        if self._error is None and self._machine.role is Role.FAILED:
            return StorageFailed(self._machine.trouble)
        return self._error

    def wait(self, role: str, timeout: float) -> None:
        """Wait until the member has a role ("primary"), or its copy is in sync ("in sync").

        Args:
            timeout: Seconds.

        Raises:
            DeadlineExceeded: It has not.
            InvalidArgument, WrongType: There is no such role, or the time is out of bounds.
        """
        roles = ("in sync", *(each.value for each in Role))
        if role not in roles:
            raise bad_choice("role", role, roles)
        checked_seconds("timeout", timeout, 0, WAIT_S_MAX)

        def reached() -> bool:
            return self.failed or (self.in_sync if role == "in sync" else self.role == role)

        with self._changed:
            self._changed.wait_for(reached, timeout)
        if self.failed:
            raise self.error or StorageFailed("the member has failed")
        if not reached():
            raise DeadlineExceeded(
                f"member {self.name} is {self.role}, not {role}, after {timeout:g} s"
                + (f": {self.trouble}" if self.trouble else "")
            )

    # The thread

    def _run(self) -> None:
        try:
            self._do_all(self._machine.begin(boot_now()))
            ticked = 0
            while not self._closing.is_set():
                with contextlib.suppress(queue.Empty):
                    self._take(self._events.get(timeout=TURN_S))
                    while True:
                        self._take(self._events.get_nowait())
                if self._watch.wait(0):
                    self._take(ev.Hint())
                self._look()
                if boot_now() - ticked >= TURN_NS:
                    ticked = boot_now()
                    if self._reopening is not None:
                        self._do_open(self._reopening[1])
                    self._take(ev.Tick())
        except BaseException as error:  # noqa: BLE001 - kept for wait()
            if not self._closing.is_set():
                log.error("member %s ended: %s", self.name, error)
                self._error = error
                self._registering = None
                self._stop_all()
                # Only now: others may take over as soon as it is not registered.
                self._workers["register"].submit(self._end_registration)
        with self._changed:
            self._changed.notify_all()

    def _tell(self, event: ev.Event) -> None:
        self._events.put(event)

    def _take(self, event: ev.Event) -> None:
        before = self._machine.role
        self._do_all(self._machine.take(event, boot_now()))
        if self._machine.role is not before:
            self._publish_role(self._machine.role)
        with self._changed:
            self._changed.notify_all()

    def _publish_role(self, role: Role) -> None:
        """Report roles that last; a mirror that connects again and again changes none."""
        shown = role
        if role in _PASSING:
            shown = Role.FOLLOWING if self._shown is Role.FOLLOWING else Role.STARTING
        if shown is self._shown:
            return
        log.info("member %s is %s now (it was %s)%s", self.name, shown.value, self._shown.value,
                 f": {self.trouble}" if self.trouble else "")  # fmt: skip
        self._shown = shown
        if self._registering is not None:
            self._register(self._registering[0])
        if self._on_change is not None:
            try:
                self._on_change(shown.value)
            except Exception:
                log.exception("on_change of member %s failed", self.name)

    def _do_all(self, actions: list[ev.Action]) -> None:
        for done, action in enumerate(actions):
            try:
                if getattr(self, f"_do_{type(action).__name__.lower()}")(action) is not False:
                    continue
            except StorageFailed as error:
                self._tell(ev.MediumFailed(str(error)))
            # What follows relied on it; but a member that has failed must not stay registered.
            for each in itertools.islice(actions, done + 1, None):
                if isinstance(each, ev.Unregister):
                    self._do_unregister(each)
                elif isinstance(each, ev.Change):
                    self._tell(ev.ChangeUnknown(each.serial, "it was not sent yet"))
                elif isinstance(each, ev.Read):
                    self._tell(ev.ReadFailed(each.serial, "it was not sent"))
            return

    # The coordinator

    def _do_register(self, action: ev.Register) -> None:
        self._register(action.copy)

    def _register(self, copy: Listed) -> None:
        wanted = (copy, self._shown.value)
        if wanted == self._registering:
            return  # each one is a lease and a key, or a session, of the coordinator
        self._registering = wanted
        self._workers["register"].submit(lambda: self._begin_registration(wanted))

    def _begin_registration(self, wanted: tuple[Listed, str]) -> None:
        while not self._closing.is_set() and self._registering is wanted:
            copy, role = wanted
            data = Registered(copy, self.address, role).encode()
            try:
                new = self._coordinator.register(self.name, data, lease=LEASE_S)
            except Exception as error:  # noqa: BLE001 - also "can't start new thread": try again
                log.debug("member %s cannot register: %s", self.name, error)
                self._closing.wait(0.2)
                continue
            # The former one last: others must not find that this member is missing.
            former, self._registration = self._registration, new
            if former is not None:
                former.close()
            return

    def _do_unregister(self, _: ev.Unregister) -> None:
        self._registering = None
        self._workers["register"].submit(self._end_registration)

    def _end_registration(self) -> None:
        former, self._registration = self._registration, None
        if former is not None:
            former.close()

    def _do_read(self, action: ev.Read) -> None:
        self._workers["read"].submit(lambda: self._read(action.serial))

    def _read(self, serial: int) -> None:
        try:
            found = self._coordinator.read()
            where = f"group {self._coordinator.address.group}"
            state = states.decode(found.value, where)
            # After the state: a member missing here was missing when the state was this one.
            members = [registered.decode(each) for each in self._coordinator.members()]
        except (GroupNotFound, GroupDamaged) as error:
            self._tell(ev.ReadFailed(serial, str(error), damaged=True))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing was read
            self._tell(ev.ReadFailed(serial, str(error)))
            return
        known = {each.listed: each.address for each in members if each is not None}
        self._known = known
        seen = Seen(found, found.number, state)
        self._tell(ev.StateRead(serial, seen, frozenset(known)))

    def _do_change(self, action: ev.Change) -> None:
        # One proposal for each serial: it takes effect once, however often it is sent.
        if action.serial not in self._proposals:
            self._proposals = {action.serial: action.old.token.next(action.new.encode())}
        proposal = self._proposals[action.serial]
        self._workers["change"].submit(lambda: self._change(action, proposal))

    def _change(self, action: ev.Change, proposal: State) -> None:
        try:
            made = self._coordinator.compare_and_set(action.old.token, proposal)
        except (VersionMismatch, GroupNotFound):
            self._tell(ev.ChangeRefused(action.serial))
        except Exception as error:  # noqa: BLE001 - also "unavailable": an earlier call may have sent it
            self._tell(ev.ChangeUnknown(action.serial, str(error)))
        else:
            self._tell(ev.ChangeMade(action.serial, Seen(made, made.number, action.new)))

    # The copy

    def _read_copy(self) -> Copy:
        try:
            regular = stat.S_ISREG(os.stat(self.path).st_mode)
        except FileNotFoundError:
            return Copy("", self.name, "", 0)
        if regular and not os.path.getsize(self.path):
            return Copy("", self.name, "", 0)
        with pools.view(self.path) as (view, _):
            found = identity.read(view)
        if found is None or not any(found["group"]):
            return Copy("", self.name, "", 0)
        whole = found["state"] == "whole" and found["member"] == self.name
        return Copy(
            found["group"].hex(),
            self.name,
            found["identity"].hex() if whole else "",
            int(found["epoch"]),
        )

    def _do_keep(self, action: ev.Keep) -> bool:
        """Return False if the epoch cannot be kept."""
        copy = self._machine.copy
        if not copy.identity:
            return True  # the mirror keeps it with the mark that the copy is not whole
        try:
            with contextlib.closing(pools.open_medium(self.path)) as medium:
                found = identity.read(medium)
                if found is None or found["state"] != "whole":
                    self._tell(ev.KeepFailed(f"{self.path} is no whole copy any more", gone=True))
                    return False
                if found["identity"].hex() != copy.identity:
                    raise PoolRefused(f"{self.path} was replaced by another copy",
                                      hint="start the member again")  # fmt: skip
                identity.write(medium, **{**found, "epoch": action.epoch})
        except StorageFailed:
            raise
        except (RfpError, OSError) as error:
            gone = isinstance(error, PoolDamaged) or not os.path.exists(self.path)
            self._tell(ev.KeepFailed(str(error), gone=gone))
            return False
        return True

    # A mirror

    def _do_follow(self, action: ev.Follow) -> None:
        of = self._known.get(action.primary)
        if action.resume or of is None:
            self._tell(ev.FollowEnded("each connection begins with a comparison" if action.resume
                                      else "it is not registered"))  # fmt: skip
            return
        try:
            self._heard = -1
            self._mirror = _GroupMirror(
                self.path, of=of, name=self.name, epoch=action.epoch, stream=self._stream,
                tell=self._tell, **self._access,
            )  # fmt: skip
        except (RfpError, OSError) as error:
            self._tell(ev.FollowEnded(str(error)))

    def _do_unfollow(self, _: ev.Unfollow) -> None:
        self._end_mirror()
        self._tell(ev.Unfollowed(self._promised))

    def _end_mirror(self) -> None:
        mirror, self._mirror = self._mirror, None
        if mirror is None:
            return
        try:
            mirror.close()
        finally:
            self._stream = mirror._stream
            # Only now: no acknowledgement leaves any more.
            if at := mirror._last.get("promised_at"):
                self._promised = max(self._promised, at + self._machine.times.promise)

    # The primary

    def _do_open(self, action: ev.Open) -> None:
        try:
            self._backend = Backend(
                self.path,
                address=self.address,
                min_mirrors=action.min_mirrors,
                _group=bytes.fromhex(self._machine.copy.group),
                _epoch=action.epoch,
                _serve=False,
                **self._options,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, another copy may be opened
            until = boot_now() + OPEN_NS if self._reopening is None else self._reopening[0]
            if isinstance(error, PoolInUse) and (action.alone or boot_now() < until):
                # By a tool: no other process is this member.
                if self._reopening is None:
                    log.warning("member %s waits for its pool: %s", self.name, error)
                self._reopening = until, action
                return
            self._reopening = None
            log.error("member %s cannot open %s: %s", self.name, self.path, error)
            self._tell(ev.OpenFailed(str(error)))
            return
        self._reopening = None
        self._leveled, self._decisions = {}, []
        self._decided, self._deciding = 0, None
        self._tell(ev.Opened())

    def _do_serve(self, _: ev.Serve) -> None:
        assert self._backend is not None
        try:
            self._backend._serve()
        except Exception as error:  # noqa: BLE001 - whatever it is, another copy may be opened
            log.error("member %s cannot serve %s: %s", self.name, self.path, error)
            self._end_backend()
            self._tell(ev.OpenFailed(str(error)))
        else:
            self._tell(ev.Served())

    def _do_slots(self, action: ev.Slots) -> None:
        wanted = {each: "in sync" if each in action.in_sync else "required"
                  for each in action.required}  # fmt: skip
        self._decisions.append((action.serial, wanted))

    def _do_drop(self, action: ev.Drop) -> None:
        self._leveled.pop(action.slot, None)
        self._decisions.append((None, {action.slot: "gone"}))

    def _do_stop(self, action: ev.Stop) -> None:
        log.warning("member %s stops serving: %s", self.name, action.reason)
        self._end_backend()
        self._tell(ev.Stopped())

    def _end_backend(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            try:
                backend.close()
            except RfpError as error:
                log.warning("member %s: %s", self.name, error)

    # Looking

    def _look(self) -> None:
        if self._backend is not None and self._machine.role is Role.PRIMARY:
            self._look_at_mirrors(self._backend)
            if self._backend is not None and self._backend.failed:
                self._take(ev.MediumFailed("the pool's medium failed or its file was removed"))
        mirror = self._mirror
        if mirror is not None:
            if mirror.failed:
                self._take(ev.MediumFailed(str(mirror.error)))
                return
            published = mirror.stats()["published"]
            if published != self._heard:
                self._heard = published
                self._take(ev.Heard())

    def _look_at_mirrors(self, backend: Backend) -> None:
        service = backend._service
        done, frame = service.group_done
        if self._deciding is not None and done == self._decided:
            serial, self._deciding = self._deciding, None
            if serial:
                self._take(ev.InForce(serial, frame))
        found = {each["ticket"]: each for each in service.group_slots()}
        for ticket, each in found.items():
            if each["level"] and ticket not in self._leveled and not each["lost"]:
                listed = Listed(each["member"], each["identity"])
                self._leveled[ticket] = (False, 0)
                try:
                    checked_member(listed.member)
                except RfpError:
                    self._do_drop(ev.Drop(ticket))
                    continue
                self._take(ev.MirrorLevel(ticket, listed))
        for ticket, (told, acked) in list(self._leveled.items()):
            here = found.get(ticket)
            if here is None or here["lost"]:
                if not told:
                    self._leveled[ticket] = (True, acked)
                    self._take(ev.MirrorLost(ticket))
                if here is None:
                    self._leveled.pop(ticket, None)
            elif here["acked"] != acked:
                self._leveled[ticket] = (told, here["acked"])
                self._take(ev.Acked(ticket, here["acked"]))
        if self._deciding is None and self._decisions and self._backend is backend:
            serial_, wanted = self._decisions.pop(0)
            self._decided += 1
            self._deciding = serial_ or 0
            service.group_decide(self._decided, wanted)

    # The end

    def _stop_all(self) -> None:
        for end in (self._end_backend, self._end_mirror):
            try:
                end()
            except Exception:
                log.exception("member %s", self.name)

    def close(self) -> None:
        """Leave: stop serving or following, and end the registration.  Safe to call again.

        Another member takes over if this one was the primary.
        """
        if self._closed or os.getpid() != self._pid:
            self._closed = True
            return
        self._closed = True
        _members.discard(self)
        self._closing.set()
        self._registering = None
        self._thread.join()
        self._stop_all()
        self._watch.close()
        self._workers["register"].submit(self._end_registration)
        self._workers["register"].close(5)
        self._coordinator.close()  # ends the calls of the others
        for worker in self._workers.values():
            worker.close(5)
        self._lock.close()
        with self._changed:
            self._changed.notify_all()

    def __enter__(self) -> GroupMember:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "start another member")

    def __repr__(self) -> str:
        return f"<rnvm.GroupMember {self.name} at {self.path}: {self.role}>"


_members: set[GroupMember] = set()


def _forget_parents_members() -> None:
    """In the child of a fork: the members are the parent's."""
    for member in _members:
        member._closed = True
    _members.clear()


def _close_members() -> None:
    """Close the members that a program has left open at its exit: before their back-ends."""
    for member in list(_members):
        member.close()


in_child(_forget_parents_members)
at_exit(_close_members)

__all__ = ["GroupMember"]
