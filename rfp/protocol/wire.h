/* The wire format of RFP: what stands in a request slot and in a response slot.  docs/protocol.md says it in prose.
 *
 * Little-endian, naturally aligned.  A slot is a multiple of 64 bytes; slot k of a ring stands at k * slot size.
 * Nothing here knows a key: payloads belong to the service above (rfp/store/messages.h for the key-value store).
 * The checks below are plain C without any state, so fuzzers drive them directly (tests/fuzz/).
 */
#ifndef RFP_PROTOCOL_WIRE_H
#define RFP_PROTOCOL_WIRE_H

#include "rfp/core/atomics.h"
#include "rfp/core/crc32c.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian and so must the machine be"
#endif
_Static_assert(sizeof(void *) == 8, "64-bit lengths and 8-byte atomics: x86-64 or aarch64, not a 32-bit system");

#define RFP_MAGIC 0x31504652u /* "RFP1" */
#define RFP_MAJOR 1
#define RFP_MINOR 0
#define RFP_LINE 64

/* Features that a client asks for and a server grants at the handshake. */
#define RFP_FEATURE_RESPONSE_CRC 1u /* responses carry a CRC32C: needed where one READ may see its lines out of order */
#define RFP_FEATURE_BYPASS 2u       /* the server lets clients walk its index */

/* How the result comes back; a field of each request, which never changes for it. */
#define RFP_MODE_FETCH 0 /* the client READs it from the server's response slot */
#define RFP_MODE_REPLY 1 /* the server WRITEs it into the client's reply slot and notifies */

#define RFP_KIND_INLINE 0    /* the result follows the header */
#define RFP_KIND_REFERENCE 1 /* an rfp_reference follows: the client READs the result from there */

#define RFP_OPCODE_CALL 1   /* an opaque call of the RPC layer */
#define RFP_OPCODE_PING 2   /* answered by the worker itself, with nothing */
#define RFP_OPCODE_SERVICE 16 /* services number theirs from here */

/* The client WRITEs the whole, header and payload.  The CRC is what makes the slot valid: no order of arrival is assumed. */
struct rfp_request_header {
    uint32_t crc;      /* CRC32C of bytes [8, 32 + length) of the slot */
    uint32_t wait;     /* not covered: the sequence whose response the client is about to sleep for, else 0 */
    uint32_t sequence; /* 1, 2, 3 ... of this ring, never 0 (after 2^32-1 comes 1); slot = (count of requests so far) mod slots */
    uint32_t length;   /* of the payload, at most slot size - 32 */
    uint8_t opcode;
    uint8_t mode;
    uint16_t count; /* items of a batch, else 0 */
    uint32_t flags; /* the service's */
    uint64_t release; /* a pin that the client is done with, else 0 */
};

/* The server writes the payload, then the rest of the header, then the first eight bytes with release order. */
struct rfp_response_header {
    uint32_t crc;      /* CRC32C of bytes [4, 24 + length) of the slot where RFP_FEATURE_RESPONSE_CRC was granted, else 0 */
    uint32_t sequence; /* the request's */
    uint32_t length;   /* of the payload, at most slot size - 24 */
    uint16_t time;     /* what the server spent on it, in units of 100 ns; 65535 means that or more */
    uint8_t status;    /* 0, or why it was refused: the service's */
    uint8_t kind;
    uint64_t result;   /* a number that the service returns beside the payload (the store: a version) */
};

/* Where a result too large for a slot stands. The pin holds it there until it is released or lease ns have passed
 * since the request was posted (by the client's clock, so always earlier than by the server's). */
struct rfp_reference {
    uint64_t offset; /* in the server's arena region */
    uint64_t length;
    uint64_t pin;    /* never 0 */
    uint64_t lease;  /* nanoseconds */
};

_Static_assert(sizeof(struct rfp_request_header) == 32, "request header");
_Static_assert(sizeof(struct rfp_response_header) == 24, "response header");
_Static_assert(sizeof(struct rfp_reference) == 32, "reference");

#define RFP_REQUEST_HEADER 32
#define RFP_RESPONSE_HEADER 24
#define RFP_REFERENCE 32

/* The sequence number of the request after this one. */
static inline uint32_t rfp_next_sequence(uint32_t sequence) { return sequence == UINT32_MAX ? 1 : sequence + 1; }

static inline uint16_t rfp_wire_time(uint64_t ns)
{
    uint64_t units = (ns + 50) / 100;
    return units > UINT16_MAX ? UINT16_MAX : (uint16_t)units;
}

/* Seals a request built in private memory (header filled but for crc, payload behind it).  Returns its size. */
static inline uint32_t rfp_request_seal(char *slot)
{
    struct rfp_request_header *header = (struct rfp_request_header *)slot;
    uint32_t size = RFP_REQUEST_HEADER + header->length;
    header->wait = 0;
    header->crc = rfp_crc32c(0, slot + 8, size - 8);
    return size;
}

/* What rfp_request_take found. */
#define RFP_TAKE_NONE 0      /* the expected request is not there yet */
#define RFP_TAKE_VALID 1
#define RFP_TAKE_UNFINISHED 2 /* its sequence is there but the CRC does not fit: still arriving, or damaged */
#define RFP_TAKE_LENGTH 3    /* its length cannot be right */

/* Copies the request with this sequence out of a slot that its sender can change at any time, and checks the copy.
 * copy: private, slot_size bytes, aligned to 8.  Nothing outside the slot is read. */
static inline int rfp_request_take(const char *slot, uint32_t slot_size, uint32_t sequence, char *copy)
{
    struct rfp_request_header *header = (struct rfp_request_header *)copy;
    if (rfp_load32_acquire(slot + offsetof(struct rfp_request_header, sequence)) != sequence) return RFP_TAKE_NONE;
    rfp_copy_in(copy, slot, RFP_REQUEST_HEADER);
    if (header->sequence != sequence) return RFP_TAKE_NONE;
    if (header->length > slot_size - RFP_REQUEST_HEADER) return RFP_TAKE_LENGTH;
    rfp_copy_in(copy + RFP_REQUEST_HEADER, slot + RFP_REQUEST_HEADER, header->length);
    if (rfp_crc32c(0, copy + 8, RFP_REQUEST_HEADER - 8 + header->length) != header->crc) return RFP_TAKE_UNFINISHED;
    return RFP_TAKE_VALID;
}

/* Publishes a response whose payload the service has already written behind the header of `slot`. */
static inline void rfp_response_publish(char *slot, uint32_t sequence, uint32_t length, uint64_t ns, uint8_t status,
                                        uint8_t kind, uint64_t result, int checked)
{
    struct rfp_response_header header = {0, sequence, length, rfp_wire_time(ns), status, kind, result};
    uint64_t words[3];
    if (checked) {
        header.crc = rfp_crc32c(0, (char *)&header + 4, RFP_RESPONSE_HEADER - 4);
        header.crc = rfp_crc32c(header.crc, slot + RFP_RESPONSE_HEADER, length);
    }
    memcpy(words, &header, sizeof words);
    rfp_store64(slot + 8, words[1]);
    rfp_store64(slot + 16, words[2]);
    rfp_store64_release(slot, words[0]);
}

/* What rfp_response_check found in `available` bytes that a READ has brought. */
#define RFP_RESPONSE_NONE 0  /* an older response stands there */
#define RFP_RESPONSE_WHOLE 1 /* all of it is here and it is the one */
#define RFP_RESPONSE_MORE 2  /* the header is good; the payload goes on beyond what was fetched */
#define RFP_RESPONSE_TORN 3  /* the checksum does not fit: read again */
#define RFP_RESPONSE_LENGTH 4 /* its length cannot be right */

/* copy: private memory.  checked: whether to prove it by checksum, or to trust the order of the provider's READ. */
static inline int rfp_response_check(const char *copy, uint32_t available, uint32_t slot_size, uint32_t sequence, int checked)
{
    struct rfp_response_header header;
    memcpy(&header, copy, sizeof header);
    if (header.sequence != sequence) return RFP_RESPONSE_NONE;
    if (header.length > slot_size - RFP_RESPONSE_HEADER)
        /* Without an order the length may be of another moment than the sequence. */
        return checked ? RFP_RESPONSE_TORN : RFP_RESPONSE_LENGTH;
    if (RFP_RESPONSE_HEADER + header.length > available) return RFP_RESPONSE_MORE;
    if (checked && RFP_FENCES && rfp_crc32c(0, copy + 4, RFP_RESPONSE_HEADER - 4 + header.length) != header.crc)
        return RFP_RESPONSE_TORN;
    return RFP_RESPONSE_WHOLE;
}

#endif
