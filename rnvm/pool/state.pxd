# An open pool as plain C, shared by all modules of the back-end.  Private memory; one thread owns
# it.
#
# dual_copy   three words that change together, crash-atomically
# blocks      allocation: the owner of each block
# ring_log    one ring: append, read, collect, truncate
# replay      all rings: collect (make durable), replay (apply), checkpoint (free the space)
# sessions    attach, fence, release
# catalog     structures: create, drop
# frame_words from which frame on a structure's state is replicated
# pool        the class that owns all of it: create, open and recover, grow, close

from libc.stdint cimport uint32_t, uint64_t
from rnvm.format.layout cimport rnvm_geometry
from rnvm.media.medium cimport medium

cdef struct ring:              # all positions are LSNs: head <= replayed <= durable <= tail
    medium *m
    uint64_t at                # offset of the ring; its size; the offset of its dual-copy record
    uint64_t size
    uint64_t dual_copy_at
    uint32_t pool_seed
    uint32_t seed
    uint64_t epoch             # of the session; records with another one do not count
    uint64_t head              # space before it may be reused
    uint64_t replayed          # memory rings: applied before it; operation rings: covered
    uint64_t durable           # everything before it is durable
    uint64_t tail              # whole records have been seen up to here
    uint64_t end               # value of `durable` in the dual-copy record
    uint64_t limit             # records from here on do not count (RNVM_NO_LIMIT unless fenced)
    uint32_t faulty            # fault of a record (ring_log.pxd); nothing behind it counts
    bint begun                 # dual_copy_begin() was called, dual_copy_finish() not yet

cdef struct structure:         # a naming entry; its index in pool.structures is the entry's
    uint32_t id                # rnvm_structure(); 0: none
    uint32_t state             # RNVM_LIVE ...
    uint64_t number            # of the last transaction applied
    uint64_t covers            # the highest operation number that it and its predecessors cover
    uint64_t saved             # the number in its dual-copy record
    bint begun                 # as above

cdef struct session:
    uint64_t epoch             # of its records; 0: it was never attached
    uint32_t state             # RNVM_FREE, RNVM_ATTACHED, RNVM_FENCED
    uint64_t detail            # the service's own word in the dual-copy record

cdef struct retired:           # blocks returned by a transaction
    uint64_t first
    uint64_t count
    uint64_t reclaim_epoch     # pool.reclaim_epoch at that time
    uint64_t checkpoint_no     # pool.checkpoints at that time: reusable only after the next one

cdef struct frame_words:       # RNVM_LIVE_FRAME of the status lines (owner: frame_words)
    uint64_t *shown            # private copies, per structure; NULL: no mirror can follow the pool
    uint32_t *waiting          # indexes of the structures whose word is not 0
    uint32_t count
    uint32_t next              # of `waiting`: where the next sweep goes on
    uint32_t sweeps            # counts them, with planted bugs

cdef struct pool:
    medium *m
    rnvm_geometry g
    uint64_t *taken            # bit: this block must not be allocated now
    uint64_t free              # blocks whose bit is not set
    uint64_t hint              # where the last search ended
    uint64_t longest_run       # no more than so many consecutive blocks are free
    ring *operations           # one of each per session
    ring *memory
    session *sessions
    structure *structures
    char *scratch              # room for the longest record
    uint64_t reclaim_epoch     # advanced by the module that knows the readers; tags retired blocks
    uint64_t checkpoints
    retired *limbo             # limbo list: blocks that readers may still read
    uint64_t limbo_first
    uint64_t limbo_count
    uint64_t limbo_room
    # retired blocks that did not fit into the limbo list: free again when the pool is next opened
    uint64_t leaked
    uint32_t turn              # the session with which pool_collect_portion() begins
    uint64_t collected         # bytes of logs
    frame_words frames
    bint recovering            # records are being applied that may have been applied before
