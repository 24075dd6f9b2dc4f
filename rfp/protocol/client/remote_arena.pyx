"""A worker's arena as a client reaches it: chunks, attached as they are needed."""

from libc.stdlib cimport calloc, free

from rfp.errors import HandshakeFailed, InvalidArgument

cdef enum:
    CHUNKS_MAX = 1 << 20


cdef int remote_arena_find(remote_arena *arena, uint64_t offset, uint64_t length,
                           remote_region **region, uint64_t *at, uint64_t *size) noexcept nogil:
    cdef uint64_t index
    if offset > arena.length or length > arena.length - offset:
        return ARENA_OUTSIDE
    index = offset // arena.chunk
    if index >= arena.count:
        return ARENA_OUTSIDE           # an empty range at the end
    at[0] = offset - index * arena.chunk
    size[0] = min(length, arena.chunk - at[0])
    region[0] = arena.chunks[index]
    return ARENA_HERE if region[0] != NULL else ARENA_MISSING


cdef class RemoteArena:
    """A worker's arena of `length` bytes, in chunks of `chunk` bytes that the client attaches.

    Raises:
        HandshakeFailed: the server's numbers are invalid.
    """

    def __cinit__(self, uint64_t length, uint64_t chunk):
        if chunk == 0 or length == 0 or (length - 1) // chunk >= CHUNKS_MAX:
            raise HandshakeFailed(f"invalid arena from the server: {length} "
                                  f"bytes in chunks of {chunk}")
        self.c.length = length
        self.c.chunk = chunk
        self.c.count = <uint32_t> ((length - 1) // chunk) + 1
        self.c.chunks = <remote_region **> calloc(self.c.count, sizeof(remote_region *))
        if self.c.chunks == NULL:
            raise MemoryError()
        self.regions = []

    def __dealloc__(self):
        free(self.c.chunks)

    @property
    def length(self):
        """Return the length in bytes."""
        return self.c.length

    def needed(self, uint64_t offset, uint64_t length):
        """Return the chunks of a range (within the arena) that are not attached yet."""
        cdef uint64_t first = offset // self.c.chunk
        cdef uint64_t last = (offset + max(length, <uint64_t> 1) - 1) // self.c.chunk
        return [index for index in range(first, min(last + 1, self.c.count))
                if self.c.chunks[index] == NULL]

    def attach(self, uint32_t index, RemoteRegion region not None):
        """Set a chunk's region, which the arena then owns; a chunk that has one already keeps it.

        Raises:
            InvalidArgument: there is no such chunk.
            HandshakeFailed: the region is shorter than the chunk.
        """
        if index >= self.c.count:
            raise InvalidArgument(f"index must be between 0 and {self.c.count - 1}, got {index}")
        if region.c.length < min(self.c.chunk, self.c.length - index * self.c.chunk):
            raise HandshakeFailed(f"the server shared {region.c.length} bytes "
                                  f"instead of a chunk of {self.c.chunk}")
        self.regions.append(region)
        if self.c.chunks[index] == NULL:
            self.c.chunks[index] = &region.c

    def close(self):
        """Close all chunks; the caller made sure that no call uses them any more."""
        cdef uint32_t i
        for i in range(self.c.count):
            self.c.chunks[i] = NULL
        for region in self.regions:
            region.close()
        self.regions.clear()
