# cython: boundscheck=True, wraparound=True, cdivision=False
"""Direct reads of a partition in this process, and of one that a traced child process changes.

A Stepper runs the requests of a child process one machine instruction at a time and reads after
each.  So a test sees every state that the server's memory passes through, without a change of the
code that it tests.
"""

import multiprocessing
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from rfp.core.system cimport SIGSTOP, SIGTRAP, raise_signal
from rfp.core.core cimport (
    rfp_copy_out, rfp_crc32c, rfp_hash, rfp_store64, rfp_store64_release,
)
from rfp.fabric.fabric cimport REMOTE_READ, Region
from rfp.store.client.direct_read cimport (
    DIRECT_ABSENT, DIRECT_FOUND, DIRECT_UNSURE, direct_arena, direct_at, direct_find, direct_open,
    direct_record, direct_result, direct_take,
)
from rfp.store.layout cimport (
    KV_BLOCK_RECORD, KV_BLOCK_RESERVED, KV_LINE, kv_bucket, kv_record_size, kv_slot, kv_slot_offset,
    kv_key_crc, kv_tag, kv_value_crc, kv_value_offset,
)
from rfp.store.server.arena cimport arena_allocate, arena_become, arena_size
from rfp.store.server.index cimport index_rearrangements, index_repoint, record_invalidate
from rfp.store.server.partition cimport Partition
from rfp.store.server.records cimport (
    partition, record_at, record_begin, record_entered, record_find, record_left, record_remove,
    record_seal,
)

cdef extern from "<sys/mman.h>" nogil:
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_ANONYMOUS
    void *MAP_FAILED
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)

cdef extern from "<sys/ptrace.h>" nogil:
    enum:
        PTRACE_TRACEME
        PTRACE_CONT
        PTRACE_SINGLESTEP
    long ptrace(int request, int pid, void *address, void *data)

cdef extern from "<sys/wait.h>" nogil:
    int waitpid(int pid, int *status, int options)
    bint WIFSTOPPED(int status)
    int WSTOPSIG(int status)

cdef enum:
    KEYS_MAX = 64
    PLACES_REMEMBERED = 4      # places of a key that a Stepper remembers
    VALUE_BYTES_READ_MAX = 1 << 17  # bytes of the longest value that is read


cdef class SharedMemory(Region):
    """A region of `length` bytes, zeroed, that a forked child shares."""

    def __init__(self, uint64_t length):
        cdef void *base
        self.close()
        length = (length + KV_LINE - 1) // KV_LINE * KV_LINE
        base = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        if base == MAP_FAILED:
            raise MemoryError
        self.c.base = <char *> base
        self.c.length = length
        self.c.rights = REMOTE_READ

    cpdef close(self):
        if self.c.base != NULL:
            munmap(self.c.base, self.c.length)
        self.c.base = NULL
        self.c.length = 0

    def __dealloc__(self):
        if self.c.base != NULL:
            munmap(self.c.base, self.c.length)


cdef class DirectReader:
    """Reads keys directly from a region that contains a partition.

    Args:
        region: the partition's memory.
        seed: of the hash of keys.
        same_clock: whether the reader may compare times to live with its own clock.
    """
    cdef Region region
    cdef direct_arena a
    cdef uint64_t seed
    cdef uint32_t word                 # stands for the server's incarnation word

    def __cinit__(self, Region region not None, *, uint64_t seed, bint same_clock=True):
        self.region = region
        self.seed = seed
        self.word = 1
        if not direct_open(&self.a, region.c.base, region.c.length, <const char *> &self.word, 1,
                           same_clock):
            raise ValueError("the region contains no partition")

    def end_server(self):
        """Let the server's incarnation end."""
        self.word = 0

    def get(self, bytes key not None):
        """Return (result, version, value): version and value are None unless result is FOUND."""
        cdef direct_record found
        cdef uint32_t length = len(key)
        cdef uint64_t hash = rfp_hash(PyBytes_AS_STRING(key), length, self.seed)
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef direct_result result = direct_find(&self.a, text, length, hash, &found)
        cdef bytes value
        if result == DIRECT_FOUND:
            value = PyBytes_FromStringAndSize(NULL, found.value_length)
            result = direct_take(&self.a, text, hash, &found, PyBytes_AS_STRING(value))
            if result == DIRECT_FOUND:
                return <int> result, found.version, value
        return <int> result, None, None

    def get_at(self, uint64_t slot, bytes key not None):
        """Return (result, version, value) of a key at a place where it had a value before."""
        cdef direct_record found
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t length = len(key)
        cdef direct_result result = direct_at(&self.a, slot, text, length, &found)
        cdef bytes value
        if result == DIRECT_FOUND:
            value = PyBytes_FromStringAndSize(NULL, found.value_length)
            result = direct_take(&self.a, text, rfp_hash(text, length, self.seed), &found,
                                 PyBytes_AS_STRING(value))
            if result == DIRECT_FOUND:
                return <int> result, found.version, value
        return <int> result, None, None

    def slot(self, bytes key not None):
        """Return the slot word that leads to a key's record."""
        cdef direct_record found
        cdef uint32_t length = len(key)
        cdef uint64_t hash = rfp_hash(PyBytes_AS_STRING(key), length, self.seed)
        if direct_find(&self.a, PyBytes_AS_STRING(key), length, hash, &found) != DIRECT_FOUND:
            raise KeyError(key)
        return found.slot

    cdef int64_t version(self, const char *key, uint32_t length, char *target,
                         uint32_t room, uint64_t *slot, uint32_t *crc) noexcept nogil:
        """Returns the version of the value read into `target`, and its CRC; 0: none; -1: unsure."""
        cdef direct_record found
        cdef uint64_t hash = rfp_hash(key, length, self.seed)
        cdef direct_result result = direct_find(&self.a, key, length, hash, &found)
        if result == DIRECT_ABSENT:
            return 0
        if result == DIRECT_UNSURE or found.value_length > room:
            return -1
        slot[0] = found.slot
        return self.taken(key, hash, &found, target, crc)

    cdef int64_t version_at(self, uint64_t slot, const char *key, uint32_t length, char *target,
                            uint32_t room, uint32_t *crc) noexcept nogil:
        """Does the same at a place where the key had a value before; -1: none there."""
        cdef direct_record found
        if direct_at(&self.a, slot, key, length, &found) != DIRECT_FOUND:
            return -1
        if found.value_length > room:
            return -1
        return self.taken(key, rfp_hash(key, length, self.seed), &found, target, crc)

    cdef int64_t taken(self, const char *key, uint64_t hash, const direct_record *found,
                       char *target, uint32_t *crc) noexcept nogil:
        if direct_take(&self.a, key, hash, found, target) != DIRECT_FOUND:
            return -1
        crc[0] = rfp_crc32c(0, target, found.value_length)
        return <int64_t> found.version

    def stop_and_read(self, bytes key not None):
        """Return (version, CRC of the value), stopping before and after for a tracer.

        The version is 0 if there is no value, -1 if the reader is unsure.
        """
        cdef const char *text = PyBytes_AS_STRING(key)
        cdef uint32_t length = len(key), crc = 0
        cdef int64_t version
        cdef char *target = <char *> calloc(1, VALUE_BYTES_READ_MAX)
        cdef uint64_t slot = 0
        if target == NULL:
            raise MemoryError
        with nogil:
            raise_signal(SIGSTOP)
            version = self.version(text, length, target, VALUE_BYTES_READ_MAX, &slot, &crc)
            raise_signal(SIGSTOP)
        free(target)
        return version, crc


class Torn(Exception):
    """A value was read that is neither the old one nor the new one."""


class Stepper:
    """A child process that executes the requests of a session, at full speed or step by step.

    Args:
        make: called in the child; returns a Session, whose service is in shared memory.
    """

    def __init__(self, make):
        self.places = {}               # key: slot words that led to it before
        self.values = {}               # version: CRC of the value, as first read
        self.connection, child = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.connection.close()
                serve(make(), child)
                status = 0
            finally:
                os._exit(status)
        child.close()

    def request(self, opcode, *arguments, **options):
        """Execute a request in the child at full speed; see Session.execute()."""
        self.connection.send(("execute", (opcode, *arguments), options))
        return self.connection.recv()

    def stage(self, offset, data):
        self.connection.send(("stage", (offset, data), {}))
        return self.connection.recv()

    def tick(self, now):
        self.connection.send(("tick", (now,), {}))
        return self.connection.recv()

    def plant(self, name, *arguments):
        """Execute an operation with a fault (a name of FAULTS) in the child at full speed."""
        self.connection.send((name, arguments, {}))
        return self.connection.recv()

    def check(self):
        self.connection.send(("check", (), {}))
        problem = self.connection.recv()
        if problem is not None:
            raise RuntimeError(problem)

    def step(self, DirectReader reader not None, list keys not None, str name, *arguments,
             **options):
        """Run a method of the session one instruction at a time, and read all keys after each.

        The reader reads by the index, and then at the places where it found the key before, as a
        client with a cache of locations does.

        Args:
            name: "execute" or "tick", or one of FAULTS, with its arguments.

        Returns:
            (result, steps, seen): seen has for each key the versions in the order in which they
            were read, without repetitions: 0: absent, -1: unsure.

        Raises:
            Torn: a version was read with two values.
        """
        cdef const char *texts[KEYS_MAX]
        cdef uint32_t lengths[KEYS_MAX]
        cdef int64_t last[KEYS_MAX]
        cdef uint32_t last_crc[KEYS_MAX]
        cdef uint64_t places[KEYS_MAX][PLACES_REMEMBERED]
        cdef int64_t version
        cdef uint64_t slot = 0, steps = 0
        cdef uint32_t crc = 0
        cdef int n = len(keys), i, j, pid = self.pid, stop = SIGTRAP
        cdef char *target
        if n > KEYS_MAX:
            raise ValueError("too many keys")
        for i in range(n):
            texts[i] = PyBytes_AS_STRING(keys[i])
            lengths[i] = len(keys[i])
            last[i] = -2
            last_crc[i] = 0
            for j in range(PLACES_REMEMBERED):
                places[i][j] = 0
            for j, known in enumerate(self.places.get(keys[i], [])):
                places[i][j] = known
        seen = [[] for _ in keys]
        target = <char *> calloc(1, VALUE_BYTES_READ_MAX)
        if target == NULL:
            raise MemoryError
        try:
            self.connection.send((name, arguments, {**options, "stops": True}))
            if step_once(pid, 0) != SIGSTOP:
                raise RuntimeError("the child did not stop before the request")
            while stop == SIGTRAP:
                for i in range(n):
                    version = reader.version(texts[i], lengths[i], target,
                                             VALUE_BYTES_READ_MAX, &slot, &crc)
                    if version != last[i] or version > 0 and crc != last_crc[i]:
                        last[i], last_crc[i] = version, crc
                        self.note(seen[i], keys[i], version, crc, slot)
                    for j in range(PLACES_REMEMBERED):
                        if not places[i][j]:
                            continue
                        version = reader.version_at(places[i][j], texts[i], lengths[i], target,
                                                    VALUE_BYTES_READ_MAX, &crc)
                        if version > 0 and (version != last[i] or crc != last_crc[i]):
                            last[i], last_crc[i] = version, crc
                            self.note(seen[i], keys[i], version, crc, places[i][j])
                with nogil:
                    stop = step_once(pid, PTRACE_SINGLESTEP)
                steps += 1
            if stop != SIGSTOP:
                raise RuntimeError(f"the child stopped with signal {stop}")
        finally:
            free(target)
            while stop == SIGTRAP:             # after an exception: to the end of the request
                stop = step_once(pid, PTRACE_CONT)
            ptrace(PTRACE_CONT, pid, NULL, NULL)
        return self.connection.recv(), steps, seen

    def note(self, seen, key, version, crc, slot):
        """Note what was read of a key."""
        seen.append(version)
        if version <= 0:
            return
        if self.values.setdefault(version, crc) != crc:
            raise Torn(f"version {version} of {key!r} was read with two values")
        known = self.places.setdefault(key, [])
        if slot not in known:
            known[:] = [slot, *known][:PLACES_REMEMBERED]

    def close(self):
        """End the child."""
        self.connection.close()
        os.waitpid(self.pid, 0)


class SteppedReader:
    """A child process that reads keys directly and can be stopped after any instruction.

    Args:
        reader: of shared memory.
    """

    def __init__(self, DirectReader reader not None):
        self.connection, child = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                self.connection.close()
                ptrace(PTRACE_TRACEME, 0, NULL, NULL)
                while (key := child.recv()) is not None:
                    child.send(reader.stop_and_read(key))
                status = 0
            finally:
                os._exit(status)
        child.close()

    def get(self, key, moments, act):
        """Read a key, and call act() each time that the reader has executed so many instructions.

        Args:
            moments: counts of instructions, ascending.

        Returns:
            (version, CRC, whether the reader had finished before the last of them): version 0:
            none; -1: unsure.
        """
        cdef int pid = self.pid, stop
        cdef bint finished = False
        cdef uint64_t steps = 0, moment
        self.connection.send(key)
        if step_once(pid, 0) != SIGSTOP:
            raise RuntimeError("the child did not stop before the read")
        for moment in moments:
            while steps < moment and not finished:
                with nogil:
                    stop = step_once(pid, PTRACE_SINGLESTEP)
                finished = stop == SIGSTOP
                steps += 1
            act()
        if not finished and step_once(pid, PTRACE_CONT) != SIGSTOP:
            raise RuntimeError("the child did not stop after the read")
        ptrace(PTRACE_CONT, pid, NULL, NULL)
        return *self.connection.recv(), finished

    def close(self):
        """End the child."""
        self.connection.send(None)
        os.waitpid(self.pid, 0)
        self.connection.close()


def serve(session, connection):
    """Execute what the connection requests, until it ends."""
    ptrace(PTRACE_TRACEME, 0, NULL, NULL)
    while True:
        try:
            name, arguments, options = connection.recv()
        except EOFError:
            return
        if name == "check":
            try:
                session.service.check()
                connection.send(None)
            except RuntimeError as error:
                connection.send(str(error))
        elif hasattr(session, name):
            connection.send(getattr(session, name)(*arguments, **options))
        else:                          # a fault
            connection.send(FAULTS[name](session.service, *arguments, **options))


cdef int step_once(int pid, int request) noexcept nogil:
    """Resumes the child if `request` is not 0; returns the signal of its next stop, or -1."""
    cdef int status = 0
    if request and ptrace(request, pid, NULL, NULL):
        return -1
    if waitpid(pid, &status, 0) != pid or not WIFSTOPPED(status):
        return -1
    return WSTOPSIG(status)


# Faults that a test plants: the server's operations with their stores in a wrong order


cdef uint64_t prepared(partition *p, bytes key, bytes value, bint replaces, uint32_t *crc) except 0:
    """Returns a block that contains all of a record except its CRC and version."""
    cdef const char *text = PyBytes_AS_STRING(key)
    cdef uint32_t length = len(key), size = len(value)
    cdef uint64_t block = arena_allocate(&p.memory, kv_record_size(length, size), KV_BLOCK_RESERVED)
    if not block:
        raise MemoryError
    record_begin(p, block, text, length, size, 0, replaces)
    rfp_copy_out(p.memory.base + block + kv_value_offset(length), PyBytes_AS_STRING(value), size)
    crc[0] = kv_value_crc(kv_key_crc(p.seed, text, length), PyBytes_AS_STRING(value), size)
    return block


def put_in_wrong_order(Partition store not None, str fault, bytes key not None,
                       bytes value not None, bint stops=False):
    """Replace the value of a key that has one.

    Args:
        fault: "old version zeroed too late", "new version written too early".
    """
    cdef partition *p = store.p
    cdef uint64_t hash = rfp_hash(PyBytes_AS_STRING(key), len(key), p.seed)
    cdef uint64_t *slot = record_find(p, hash, PyBytes_AS_STRING(key), len(key))
    cdef uint64_t old, block, version = p.version
    cdef uint32_t crc = 0
    cdef bint early = fault == "new version written too early"
    if slot == NULL:
        raise KeyError(key)
    old = kv_slot_offset(slot[0])
    if stops:
        raise_signal(SIGSTOP)
    block = prepared(p, key, value, True, &crc)
    record_seal(p, block, crc)
    if early:
        rfp_store64_release(&record_at(p, block).version, version)
        record_invalidate(record_at(p, old))
    rfp_store64_release(slot, kv_slot(kv_tag(hash), block, kv_record_size(len(key), len(value))))
    if not early:
        rfp_store64_release(&record_at(p, block).version, version)
        record_invalidate(record_at(p, old))
    record_left(p, old)
    arena_become(&p.memory, block, KV_BLOCK_RECORD)
    record_entered(p, block, version)
    if stops:
        raise_signal(SIGSTOP)


def move_and_leave_twin(Partition store not None, bytes key not None):
    """Move the record of a key without invalidating its original, which stays in memory."""
    cdef partition *p = store.p
    cdef uint64_t hash = rfp_hash(PyBytes_AS_STRING(key), len(key), p.seed)
    cdef uint64_t *slot = record_find(p, hash, PyBytes_AS_STRING(key), len(key))
    cdef uint64_t old, block, version
    if slot == NULL:
        raise KeyError(key)
    old = kv_slot_offset(slot[0])
    version = record_at(p, old).version
    block = arena_allocate(&p.memory, arena_size(&p.memory, old), KV_BLOCK_RESERVED)
    rfp_copy_out(p.memory.base + block + 8, p.memory.base + old + 8, arena_size(&p.memory, old) - 8)
    arena_become(&p.memory, block, KV_BLOCK_RECORD)
    index_repoint(&p.index, old, block)
    rfp_store64(&record_at(p, old).version, version)


def delete_without_counting(Partition store not None, bytes key not None):
    """Delete a key, whose bucket rearranges its slots without counting that."""
    cdef partition *p = store.p
    cdef uint64_t hash = rfp_hash(PyBytes_AS_STRING(key), len(key), p.seed)
    cdef uint64_t *slot = record_find(p, hash, PyBytes_AS_STRING(key), len(key))
    cdef uint64_t *counter
    if slot == NULL:
        raise KeyError(key)
    record_remove(p, hash, slot)
    counter = index_rearrangements(p.index.base, kv_bucket(hash, p.index.buckets, p.index.mask))
    rfp_store64(counter, counter[0] - 2)


FAULTS = {
    "put": put_in_wrong_order,
    "twin": move_and_leave_twin,
    "uncounted delete": delete_without_counting,
}
