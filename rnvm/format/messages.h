/* Calls of a front-end to its back-end: payloads of requests and responses over RFP.  docs/rnvm.md
 * explains them.
 *
 * Little-endian, naturally aligned.  A back-end answers an attach call of another version with
 * RNVM_OTHER_VERSION, and one of another length with RNVM_BAD_REQUEST: version 1 had no version
 * number.
 */
#ifndef RNVM_FORMAT_MESSAGES_H
#define RNVM_FORMAT_MESSAGES_H

#include <stdint.h>

#define RNVM_MESSAGES 5         /* version of everything here */

enum rnvm_opcode {              /* request payload                    -> response payload */
    RNVM_ATTACH = 17,           /* rnvm_attach                        -> rnvm_attached */
    RNVM_DETACH = 18,           /* -: the front-end writes no more, even if the session was
                                 * fenced before */
    RNVM_FIND = 19,             /* rnvm_open, name                    -> rnvm_opened */
    RNVM_DROP = 20,             /* name; of a mapping with partitions: without a number */
    RNVM_LIST = 21,             /* rnvm_number (first index)          -> rnvm_listed and name,
                                 * many; result: index to go on with, or 0 */
    RNVM_GRANT = 22,            /* rnvm_number (blocks in a row)      -> rnvm_number (address of
                                 * the first) */
    RNVM_ACQUIRE = 23,          /* rnvm_number (structure, RNVM_PATIENT) -> rnvm_locked; or
                                 * RNVM_QUEUED: request again */
    RNVM_LEAVE = 24,            /* rnvm_number (structure): gives its lock back, or stops waiting
                                 * for it */
    RNVM_PENDING = 25,          /* rnvm_after                         -> rnvm_pending: the next
                                 * operation to re-execute */
    RNVM_SYNC = 26,             /* rnvm_number: the response means that everything whole in the
                                 * session's rings is durable; 1: and replicated */
    RNVM_APPLY = 27,            /* -: the same, and applied */
    RNVM_ROOM = 28,             /* -: the same, and the space of records that are not needed any
                                 * more is free */
    RNVM_OUTCOME = 29,          /* rnvm_outcome: RNVM_GOOD if that record counts, RNVM_ABSENT if
                                 * it never will */
    RNVM_SHARE = 30,            /* rnvm_share                         -> rnvm_locked;
                                 * RNVM_ABANDONED: rnvm_number; RNVM_QUEUED */
    RNVM_RETAINED = 31,         /* rnvm_retain                        -> rnvm_number: the oldest
                                 * version of a multi-version structure that a session uses */
    RNVM_WATCH = 32,            /* rnvm_number (structure): from now on the back-end wakes threads
                                 * that sleep on its sequence when that changes.  A back-end that
                                 * does not know the call answers RNVM_BAD_REQUEST */
    RNVM_SERVING = 35,          /* -                                  -> rnvm_number: ns for which
                                 * the back-end may still answer, computed at this call; 0: it may
                                 * not, since another one may be the group's primary */
    RNVM_MIRROR = 33,           /* a mirror's calls: rnvm/format/replication.h */
    RNVM_LEVEL = 34,
    RNVM_MOMENT = 40,           /* rnvm_number (structure), many      -> rnvm_version, as many: the
                                 * versions of multi-version structures at one moment, all applied;
                                 * RNVM_QUEUED: pending operations must be executed first */
    RNVM_CLOSE = 41,            /* rnvm_number (structure): the session reads nothing of it any
                                 * more.  A back-end that does not know the call answers
                                 * RNVM_BAD_REQUEST */
};

enum rnvm_status {
    RNVM_GOOD = 0,
    RNVM_BAD_REQUEST = 1,
    RNVM_STOPPED = 2,           /* the medium failed: nothing is promised any more */
    RNVM_NO_SESSION_LEFT = 3,
    RNVM_NOT_ATTACHED = 4,      /* or fenced in the meantime */
    RNVM_ABSENT = 5,
    RNVM_QUEUED = 6,
    RNVM_NO_SPACE = 7,
    RNVM_OTHER_KIND = 8,        /* result: kind << 32 | format */
    RNVM_OTHER_CODEC = 9,       /* payload: its codec */
    RNVM_IN_USE = 10,           /* a structure whose lock another session holds is not dropped */
    RNVM_FORGOTTEN = 11,        /* the outcome is not known any more */
    RNVM_OTHER_VERSION = 13,    /* result: RNVM_MESSAGES of the back-end */
    RNVM_OTHER_POOL = 14,       /* not the pool in which the front-end had its session before */
    RNVM_TOO_MANY = 15,         /* the process has its maximum of sessions: result */
    RNVM_OTHER_PARTITIONS = 16, /* payload: the number that the name has, in digits; 0: it is no
                                 * mapping with partitions */
    RNVM_FEW_MIRRORS = 17,      /* fewer mirrors are in sync than the group or the back-end
                                 * requires: nothing was done */
    RNVM_UNREPLICATED = 18,     /* done here; no mirror that counts has it in time */
    RNVM_ABANDONED = 12,        /* a lock word that its writer will not release: the caller may,
                                 * by compare-and-swap */
};

struct rnvm_number {
    uint64_t number;
};

#define RNVM_PATIENT (1ull << 32) /* beside the structure: its holder is not fenced for that */

struct rnvm_attach {
    uint32_t version;           /* RNVM_MESSAGES */
    uint32_t flags;
    uint8_t pool[16];           /* UUID of the pool of its previous session; zeros: any pool */
    uint64_t ticket;            /* of that session, whose rings no process there writes any more;
                                 * 0: there was none */
    uint32_t previous;          /* index of that session */
    uint32_t reserved;
};
#define RNVM_WAITS 1            /* it acknowledges only durable records */
#define RNVM_MAPS 2             /* its rings are mapped on its host */
#define RNVM_WAITS_REPLICATED 4 /* it answers only what is replicated.  The responses to its calls
                                 * that change the pool or list what is in it come when the frames
                                 * published at that time are replicated */

struct rnvm_attached {
    uint32_t session;
    uint32_t flags;
    uint64_t epoch;
    uint64_t operations;        /* LSN of the next record */
    uint64_t memory;
    uint64_t lease;             /* ns */
    uint64_t snapshot;          /* ns for which the memory of an open snapshot is kept */
    uint64_t size;              /* of the pool, bytes */
    uint64_t ticket;            /* under which the session's rings are shared for writing: the
                                 * number of GetMemory; later the proof that the session was the
                                 * front-end's own */
    uint8_t pool[16];           /* UUID */
};
#define RNVM_DIRECT 1           /* a process that maps the pool makes its own stores durable */
#define RNVM_FLUSHED 4          /* by flushing cache lines */
#define RNVM_FORGETFUL 2        /* the medium does not survive the machine */
#define RNVM_LAST 8             /* no session is left for another front-end: log no operations,
                                 * so that this one never waits for their execution */
#define RNVM_REPLICATES 16      /* the back-end accepts mirrors, and publishes what is replicated */
#define RNVM_GROUPED 32         /* it may answer for a limited time, which the replication line has,
                                 * or RNVM_SERVING returns: only in a group */

struct rnvm_open {
    uint32_t kind;
    uint32_t format;
    uint32_t root;              /* bytes of its first nodes */
    uint32_t flags;
    char codec[16];
};

#define RNVM_CREATE 1           /* unless it exists */
#define RNVM_VERSIONED 2        /* its kind is a multi-version one */

struct rnvm_opened {
    uint32_t structure;         /* rnvm_structure() */
    uint32_t kind;
    uint64_t root;              /* address of its first block */
    uint64_t blocks;
    uint64_t number;            /* of its last transaction */
    uint8_t uuid[16];           /* of the structure */
};

struct rnvm_listed {
    uint32_t structure;
    uint32_t kind;
    uint32_t format;
    uint32_t name_length;       /* bytes that follow, padded to a multiple of 8 */
    uint8_t uuid[16];
    char codec[16];
    uint64_t created;
};

struct rnvm_locked {
    uint64_t word;              /* in the structure's status line as long as this grant holds */
    uint64_t number;            /* of the last transaction; it is applied */
    uint64_t covered;           /* operation number */
    uint64_t operations;        /* the highest ever logged: operations between the two must be
                                 * executed first */
};

struct rnvm_share {
    uint64_t structure;         /* with RNVM_PATIENT: a session that is inside is not fenced */
    uint64_t word;              /* the caller's own, now in the lock word; 0: it waits for
                                 * another session to leave */
};

struct rnvm_after {
    uint64_t structure;
    uint64_t number;
};

struct rnvm_retain {
    uint64_t structure;
    uint64_t give_up;           /* 1: give up the oldest version in use first */
};

struct rnvm_pending {
    uint64_t number;
    uint64_t lsn;               /* of its record in the operation ring of this session */
    uint32_t session;
    uint32_t code;
    uint32_t at;                /* offset of its bytes in the record */
    uint32_t length;
    uint64_t epoch;             /* epoch in the record */
};

struct rnvm_outcome {
    uint32_t session;
    uint32_t ring;              /* 0: operations, 1: memory */
    uint64_t epoch;
    uint64_t lsn;
    uint64_t ticket;            /* of the session at that time */
};

/* Words of a structure's status line (the live words of its naming entry): the sequence, the
 * revoked epoch, then those below. */
#define RNVM_STATUS_REVOKE 1
#define RNVM_STATUS_SPARE 2     /* the first of the six spare words */
#define RNVM_LIVE_HOLDER 0      /* lock word: epoch << 16 | session + 1, or 0 */
#define RNVM_LIVE_REPLAYED 1    /* LSN in the holder's memory ring: everything before it is
                                 * applied */
#define RNVM_LIVE_ORPHANS 2     /* highest number of a dead writer's operation to re-execute,
                                 * or 0 */
#define RNVM_LIVE_STRUCTURE 3   /* rnvm_structure() of the live structure here, or 0; cleared
                                 * before any block of it is freed */
#define RNVM_LIVE_FLAGS 4       /* of the two below */
#define RNVM_WATCHED 1          /* threads may sleep on the sequence; a front-end whose stores
                                 * become durable without the back-end wakes it after a change */
#define RNVM_ALONE 2            /* one session alone has opened the structure */
#define RNVM_LIVE_FRAME 5       /* 0: everything applied is replicated; else the state is
                                 * replicated once that frame is.  Stored before the even
                                 * sequence: a reader loads it after its last load of data */

/* With lock="cas", front-ends arbitrate by compare-and-swap, and the back-end grants the lock to
 * all of them together.  Each structure then has a word in memory that the back-end creates when it
 * starts and never stores into: a device's atomics and a processor's do not exclude each other. */
#define RNVM_SHARED 0xfffeu     /* in place of the session that holds a lock */
#define RNVM_LOCK_WORDS 1       /* the number of GetMemory that returns them; tickets are greater */
#define RNVM_HELD (1ull << 63)  /* the session in the word is inside; without it: it was the last
                                 * one inside */
static inline uint64_t rnvm_lock_word(uint32_t session, uint64_t epoch, uint64_t turn)
{
    return RNVM_HELD | (turn & 0x7fffff) << 40 | (epoch & 0xffffff) << 16 | (session + 1);
}
static inline uint32_t rnvm_lock_session(uint64_t word) { return (uint32_t)(word & 0xffff) - 1; }
static inline int rnvm_lock_of(uint64_t word, uint64_t epoch)
{
    return (word >> 16 & 0xffffff) == (epoch & 0xffffff);
}

_Static_assert(sizeof(struct rnvm_attach) == 40, "attach");
_Static_assert(sizeof(struct rnvm_attached) == 80, "attached");
_Static_assert(sizeof(struct rnvm_open) == 32, "open");
_Static_assert(sizeof(struct rnvm_opened) == 48, "opened");
_Static_assert(sizeof(struct rnvm_listed) == 56, "listed");
_Static_assert(sizeof(struct rnvm_locked) == 32, "locked");
_Static_assert(sizeof(struct rnvm_share) == 16, "share");
_Static_assert(sizeof(struct rnvm_retain) == 16, "retain");
_Static_assert(sizeof(struct rnvm_pending) == 40, "pending");
_Static_assert(sizeof(struct rnvm_outcome) == 32, "outcome");

#endif
