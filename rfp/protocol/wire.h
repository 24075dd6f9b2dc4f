/* The wire format of RFP: the bytes of a request slot and of a response slot.
 *
 * A ring is an array of slots in one memory region; slot k is at k * slot size.  Client and server
 * use slots in turn:
 *
 *       the client WRITEs requests     ------>   server's memory    [  0  |  1  |  2  | ... | n-1 ]
 *       the client READs results       <------   server's memory    [  0  |  1  |  2  | ... | n-1 ]
 *    or the server WRITEs replies      ------>   client's memory    [  0  |  1  |  2  | ... | n-1 ]
 *
 * The request in slot k is answered in slot k of the other array.  A sequence number names both, so
 * a slot needs no flag that must be reset: a request or response is there if the slot contains its
 * sequence number.
 *
 *    A request slot                                 A response slot
 *
 *     0        4        8        12                  0        4        8        12 14 15
 *    +--------+--------+--------+--------+          +--------+--------+--------+--+--+--+
 *    | crc    | wait   |sequence| length |          | crc    |sequence| length |tm|st|ki|
 *    +--+--+--+--------+--------+--------+          +--------+--------+--------+--+--+--+
 *    |op|mo|ct| flags  | release         |          | result          | payload, `length` bytes ...
 *    +--+--+--+--------+-----------------+          +-----------------+------
 *    | payload, `length` bytes ...                   16                24
 *    +------
 *     32                        op: opcode, mo: mode, ct: count, tm: time, st: status, ki: kind
 *
 * Integers are little-endian and naturally aligned.  A slot is a multiple of 64 bytes.  The format
 * does not know keys: payloads belong to the service above (rfp/store/messages.h for the key-value
 * store).  The checks below are plain C without any state, so fuzzers call them directly
 * (tests/fuzz/).  docs/protocol.md describes the format in prose.
 */
#ifndef RFP_PROTOCOL_WIRE_H
#define RFP_PROTOCOL_WIRE_H

#include "rfp/core/atomics.h"
#include "rfp/core/crc32c.h"
#include "rfp/core/limits.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire format is little-endian and so must the machine be"
#endif
_Static_assert(sizeof(void *) == 8,
               "64-bit lengths and 8-byte atomics: x86-64 or aarch64, not a 32-bit system");

#define RFP_MAGIC 0x31504652u /* "RFP1" */
#define RFP_MAJOR 1
#define RFP_MINOR 0

/* Features that a client requests and a server grants at the handshake. */
/* responses carry a CRC32C: needed if one READ may return its lines out of order */
#define RFP_FEATURE_RESPONSE_CRC 1u
#define RFP_FEATURE_DIRECT_READS 2u       /* clients may read the server's index */
/* a client thread may sleep on a descriptor (core/eventcount.h, POLLED) */
#define RFP_FEATURE_WAKEUP 4u
#define RFP_FEATURE_PLACES 8u             /* responses name the places of results */
#define RFP_FEATURE_VIEWS 16u             /* clients may use values in the server's memory */

/* How the client gets the result: a field of each request, fixed for that request. */
#define RFP_MODE_FETCH 0 /* the client READs it from the server's response slot */
#define RFP_MODE_REPLY 1 /* the server WRITEs it into the client's reply slot and notifies */

#define RFP_KIND_INLINE 0    /* the result follows the header */
#define RFP_KIND_REFERENCE 1 /* an rfp_reference follows: the client READs the result from there */

#define RFP_OPCODE_CALL 1   /* an opaque call of the RPC layer */
#define RFP_OPCODE_PING 2   /* the worker itself sends an empty response */
#define RFP_OPCODE_SERVICE 16 /* the opcodes of services begin here */

/* The client WRITEs header and payload together.  The CRC makes the slot valid: the protocol
 * assumes no order of arrival. */
struct rfp_request_header {
    uint32_t crc;      /* CRC32C of bytes [8, 32 + length) of the slot */
    /* not covered by crc: sequence of the response that the client is about to sleep for, else 0 */
    uint32_t wait;
    /* 1, 2, 3 ... of this ring, never 0 (1 follows 2^32-1); slot = requests so far mod slots */
    uint32_t sequence;
    uint32_t length;   /* of the payload, at most slot size - 32 */
    uint8_t opcode;
    uint8_t mode;
    uint16_t count; /* items of a batch, else 0 */
    uint32_t flags; /* defined by the service */
    uint64_t release; /* a pin that the client no longer needs, else 0 */
};

/* The server writes the payload, then the rest of the header, then the first eight bytes with
 * release order. */
struct rfp_response_header {
    /* CRC32C of bytes [4, 24 + length) of the slot with RFP_FEATURE_RESPONSE_CRC, else 0 */
    uint32_t crc;
    uint32_t sequence; /* that of the request */
    uint32_t length;   /* of the payload, at most slot size - 24 */
    /* the server's time for the request, in units of 100 ns; 65535 means that or more */
    uint16_t time;
    uint8_t status;    /* 0, or the service's reason for refusing the request */
    uint8_t kind;
    /* a number that the service returns beside the payload (the store: a version) */
    uint64_t result;
};

/* The place of a result that is too large for a slot.  The pin keeps the result there until the
 * client releases the pin or `lease` ns have passed since the client posted the request (by the
 * client's clock, so the client's lease always ends earlier than the server's). */
struct rfp_reference {
    uint64_t offset; /* in the server's arena region */
    uint64_t length;
    uint64_t pin;    /* never 0 */
    uint64_t lease;  /* ns */
};

/* Sizes in bytes. */
#define RFP_REQUEST_HEADER 32
#define RFP_RESPONSE_HEADER 24
#define RFP_REFERENCE 32
_Static_assert(sizeof(struct rfp_request_header) == RFP_REQUEST_HEADER, "request header");
_Static_assert(sizeof(struct rfp_response_header) == RFP_RESPONSE_HEADER, "response header");
_Static_assert(sizeof(struct rfp_reference) == RFP_REFERENCE, "reference");

/* Returns the sequence number of the request after this one. */
static inline uint32_t rfp_next_sequence(uint32_t sequence)
{
    return sequence == UINT32_MAX ? 1 : sequence + 1;
}

static inline uint16_t rfp_wire_time(uint64_t ns)
{
    uint64_t units = (ns + 50) / 100;
    return units > UINT16_MAX ? UINT16_MAX : (uint16_t)units;
}

/* Seals a request built in private memory (header filled except for crc, payload behind it).
 * Returns its size. */
static inline uint32_t rfp_request_seal(char *slot)
{
    struct rfp_request_header *header = (struct rfp_request_header *)slot;
    uint32_t size = RFP_REQUEST_HEADER + header->length;
    header->wait = 0;
    header->crc = rfp_crc32c(0, slot + 8, size - 8);
    return size;
}

/* Results of rfp_request_take. */
#define RFP_TAKE_NONE 0      /* the expected request is not there yet */
#define RFP_TAKE_VALID 1
/* its sequence is there, but the CRC does not match: still arriving, or damaged */
#define RFP_TAKE_UNFINISHED 2
#define RFP_TAKE_LENGTH 3    /* its length is invalid */

/* Copies the request with this sequence out of a slot that its sender can change at any time, and
 * checks the copy.  copy: private, slot_size bytes, aligned to 8.  The function reads nothing
 * outside the slot. */
static inline int rfp_request_take(const char *slot, uint32_t slot_size, uint32_t sequence,
                                   char *copy)
{
    struct rfp_request_header *header = (struct rfp_request_header *)copy;
    if (rfp_load32_acquire(slot + offsetof(struct rfp_request_header, sequence)) != sequence)
        return RFP_TAKE_NONE;
    rfp_copy_in(copy, slot, RFP_REQUEST_HEADER);
    if (header->sequence != sequence) return RFP_TAKE_NONE;
    if (header->length > slot_size - RFP_REQUEST_HEADER) return RFP_TAKE_LENGTH;
    rfp_copy_in(copy + RFP_REQUEST_HEADER, slot + RFP_REQUEST_HEADER, header->length);
    if (rfp_crc32c(0, copy + 8, RFP_REQUEST_HEADER - 8 + header->length) != header->crc)
        return RFP_TAKE_UNFINISHED;
    return RFP_TAKE_VALID;
}

/* Publishes a response.  The service has written the payload behind the header of `slot`. */
static inline void rfp_response_publish(char *slot, uint32_t sequence, uint32_t length, uint64_t ns,
                                        uint8_t status, uint8_t kind, uint64_t result, int checked)
{
    struct rfp_response_header header = {0, sequence, length, rfp_wire_time(ns), status, kind,
                                         result};
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

/* Results of rfp_response_check for the `available` bytes that a READ has returned. */
#define RFP_RESPONSE_NONE 0  /* the slot contains an older response */
#define RFP_RESPONSE_WHOLE 1 /* the expected response, complete */
/* the header is valid; the payload continues beyond the fetched bytes */
#define RFP_RESPONSE_MORE 2
#define RFP_RESPONSE_TORN 3  /* the checksum does not match: read again */
#define RFP_RESPONSE_LENGTH 4 /* its length is invalid */

/* copy: private memory.  checked: True verifies the checksum, False relies on the order of the
 * provider's READ. */
static inline int rfp_response_check(const char *copy, uint32_t available, uint32_t slot_size,
                                     uint32_t sequence, int checked)
{
    struct rfp_response_header header;
    memcpy(&header, copy, sizeof header);
    if (header.sequence != sequence) return RFP_RESPONSE_NONE;
    if (header.length > slot_size - RFP_RESPONSE_HEADER)
        /* Without that order, length and sequence may come from different responses. */
        return checked ? RFP_RESPONSE_TORN : RFP_RESPONSE_LENGTH;
    if (RFP_RESPONSE_HEADER + header.length > available) return RFP_RESPONSE_MORE;
    if (checked && RFP_FENCES &&
        rfp_crc32c(0, copy + 4, RFP_RESPONSE_HEADER - 4 + header.length) != header.crc)
        return RFP_RESPONSE_TORN;
    return RFP_RESPONSE_WHOLE;
}

#endif
