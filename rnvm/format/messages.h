/* What a front-end asks of its back-end: payloads of requests and responses over RFP.  docs/rnvm.md says it in prose.
 *
 * Little-endian, naturally aligned.  A back-end answers an attach call of another version with RNVM_OTHER_VERSION, and one of another
 * length with RNVM_BAD_REQUEST: version 1 had no number.
 */
#ifndef RNVM_FORMAT_MESSAGES_H
#define RNVM_FORMAT_MESSAGES_H

#include <stdint.h>

#define RNVM_MESSAGES 2         /* version: of everything here */

enum rnvm_opcode {              /* request payload                    -> response payload */
    RNVM_ATTACH = 17,           /* rnvm_attach                        -> rnvm_attached */
    RNVM_DETACH = 18,           /* -: nothing will be written any more, also where the session was fenced before */
    RNVM_FIND = 19,             /* rnvm_open, name                    -> rnvm_opened */
    RNVM_DROP = 20,             /* name */
    RNVM_LIST = 21,             /* rnvm_number (index to begin with)  -> rnvm_listed and name, many; result: index to go on with, or 0 */
    RNVM_GRANT = 22,            /* rnvm_number (blocks in a row)      -> rnvm_number (address of the first) */
    RNVM_ACQUIRE = 23,             /* rnvm_number (structure)            -> rnvm_locked; or RNVM_QUEUED: ask again */
    RNVM_LEAVE = 24,            /* rnvm_number (structure): gives its lock back, or stops waiting for it */
    RNVM_PENDING = 25,          /* rnvm_after                         -> rnvm_pending: the next operation to be executed again */
    RNVM_SYNC = 26,             /* -: all that is whole in the session's rings is durable when this is answered */
    RNVM_APPLY = 27,            /* -: and applied */
    RNVM_ROOM = 28,             /* -: and the space of what need not be kept is free */
    RNVM_OUTCOME = 29,          /* rnvm_outcome: RNVM_GOOD if that record counts, RNVM_ABSENT if it never will */
    RNVM_SHARE = 30,            /* rnvm_share                         -> rnvm_locked; RNVM_ABANDONED: rnvm_number; RNVM_QUEUED */
};

enum rnvm_status {
    RNVM_GOOD = 0,
    RNVM_BAD_REQUEST = 1,
    RNVM_STOPPED = 2,           /* the medium failed: nothing is promised any more */
    RNVM_NO_SESSION_LEFT = 3,
    RNVM_NOT_ATTACHED = 4,      /* or fenced meanwhile */
    RNVM_ABSENT = 5,
    RNVM_QUEUED = 6,
    RNVM_NO_SPACE = 7,
    RNVM_OTHER_KIND = 8,        /* result: kind << 32 | format */
    RNVM_OTHER_CODEC = 9,       /* payload: its codec */
    RNVM_IN_USE = 10,           /* a structure whose lock another session holds is not dropped */
    RNVM_FORGOTTEN = 11,        /* nobody knows any more */
    RNVM_OTHER_VERSION = 13,    /* result: RNVM_MESSAGES of the back-end */
    RNVM_OTHER_POOL = 14,       /* not the one in which the front-end had its session before */
    RNVM_TOO_MANY = 15,         /* the process has as many sessions as one may: result */
    RNVM_ABANDONED = 12,        /* a word that who wrote it will not take back: the caller may, by compare-and-swap */
};

struct rnvm_number {
    uint64_t number;
};

struct rnvm_attach {
    uint32_t version;           /* RNVM_MESSAGES */
    uint32_t flags;
    uint8_t pool[16];           /* UUID of the one in which it had a session before; zeros: any will do */
    uint64_t ticket;            /* of that session, whose rings nobody there writes any more; 0: there was none */
    uint32_t previous;          /* which it was */
    uint32_t reserved;
};
#define RNVM_WAITS 1            /* it acknowledges only what is durable */
#define RNVM_MAPS 2             /* its rings are mapped where it runs */

struct rnvm_attached {
    uint32_t session;
    uint32_t flags;
    uint64_t epoch;
    uint64_t operations;        /* where the next record goes: LSNs */
    uint64_t memory;
    uint64_t lease;             /* ns */
    uint64_t size;              /* of the pool, bytes */
    uint64_t ticket;            /* for which the session's rings are given out, to be written: the number of GetMemory; and which
                                 * says later that the session was its own */
    uint8_t pool[16];           /* UUID */
};
#define RNVM_DIRECT 1           /* who maps the pool makes his own stores durable */
#define RNVM_FLUSHED 4          /* by flushing cache lines */
#define RNVM_FORGETFUL 2        /* the medium does not survive the machine */
#define RNVM_LAST 8             /* no session is left behind this one: log no operations, so that it never waits for their execution */

struct rnvm_open {
    uint32_t kind;
    uint32_t format;
    uint32_t root;              /* bytes that its first nodes take */
    uint32_t create;            /* 0: it must be there.  1: unless it is */
    char codec[16];
};

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
    uint64_t word;              /* what stands in the structure's line as long as this holds */
    uint64_t number;            /* of the last transaction; it is applied */
    uint64_t covered;           /* operation number */
    uint64_t operations;        /* the highest that was ever logged: those in between are to be executed first */
};

struct rnvm_share {
    uint64_t structure;
    uint64_t word;              /* that the caller has written into its word, or 0: it waits for another one to go */
};

struct rnvm_after {
    uint64_t structure;
    uint64_t number;
};

struct rnvm_pending {
    uint64_t number;
    uint64_t lsn;               /* of its record in the operation ring of this session */
    uint32_t session;
    uint32_t code;
    uint32_t at;                /* where its bytes stand in the record */
    uint32_t length;
    uint64_t epoch;             /* that the record carries */
};

struct rnvm_outcome {
    uint32_t session;
    uint32_t ring;              /* 0: operations, 1: memory */
    uint64_t epoch;
    uint64_t lsn;
    uint64_t ticket;            /* that it had */
};

/* Words of a structure's status line (the live words of its naming entry): the sequence, the revoked
 * epoch, then those below. */
#define RNVM_STATUS_REVOKE 1
#define RNVM_STATUS_SPARE 2     /* the first of the six spare words */
#define RNVM_LIVE_HOLDER 0      /* word of the lock: epoch << 16 | session + 1, or 0 */
#define RNVM_LIVE_REPLAYED 1    /* LSN in the holder's memory ring: all before it is applied */
#define RNVM_LIVE_ORPHANS 2     /* highest number of an operation of a dead writer that is still to be executed, or 0 */
#define RNVM_LIVE_STRUCTURE 3   /* rnvm_structure() of the one that lives here, or 0.  It goes before anything of it is freed */

/* Where front-ends settle by compare-and-swap who of them has a lock (lock="cas"), the back-end lets all of them have it together.
 * Each structure has a word then, in memory that the back-end makes anew when it starts, and never stores into: a device's atomics
 * and a processor's do not exclude each other. */
#define RNVM_SHARED 0xfffeu     /* in place of the session that holds a lock */
#define RNVM_LOCK_WORDS 1       /* the number of GetMemory that gives them; tickets are greater */
#define RNVM_HELD (1ull << 63)  /* somebody is inside; without it: who was the last */
static inline uint64_t rnvm_lock_word(uint32_t session, uint64_t epoch, uint64_t turn)
{
    return RNVM_HELD | (turn & 0x7fffff) << 40 | (epoch & 0xffffff) << 16 | (session + 1);
}
static inline uint32_t rnvm_lock_session(uint64_t word) { return (uint32_t)(word & 0xffff) - 1; }
static inline int rnvm_lock_of(uint64_t word, uint64_t epoch) { return (word >> 16 & 0xffffff) == (epoch & 0xffffff); }

_Static_assert(sizeof(struct rnvm_attach) == 40, "attach");
_Static_assert(sizeof(struct rnvm_attached) == 72, "attached");
_Static_assert(sizeof(struct rnvm_open) == 32, "open");
_Static_assert(sizeof(struct rnvm_opened) == 48, "opened");
_Static_assert(sizeof(struct rnvm_listed) == 56, "listed");
_Static_assert(sizeof(struct rnvm_locked) == 32, "locked");
_Static_assert(sizeof(struct rnvm_share) == 16, "share");
_Static_assert(sizeof(struct rnvm_pending) == 40, "pending");
_Static_assert(sizeof(struct rnvm_outcome) == 32, "outcome");

#endif
