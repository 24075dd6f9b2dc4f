# Declarations of the wire format in wire.h.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rfp/protocol/wire.h" nogil:
    enum:
        RFP_MAJOR
        RFP_MINOR
        RFP_FEATURE_RESPONSE_CRC
        RFP_FEATURE_DIRECT_READS
        RFP_FEATURE_WAKEUP
        RFP_FEATURE_PLACES
        RFP_FEATURE_VIEWS
        RFP_MODE_FETCH
        RFP_MODE_REPLY
        RFP_KIND_INLINE
        RFP_KIND_REFERENCE
        RFP_OPCODE_CALL
        RFP_OPCODE_PING
        RFP_OPCODE_SERVICE
        RFP_REQUEST_HEADER
        RFP_RESPONSE_HEADER
        RFP_REFERENCE
        RFP_TAKE_NONE
        RFP_TAKE_VALID
        RFP_TAKE_UNFINISHED
        RFP_TAKE_LENGTH
        RFP_RESPONSE_NONE
        RFP_RESPONSE_WHOLE
        RFP_RESPONSE_MORE
        RFP_RESPONSE_TORN
        RFP_RESPONSE_LENGTH

    struct rfp_request_header:
        uint32_t crc
        uint32_t wait
        uint32_t sequence
        uint32_t length
        uint8_t opcode
        uint8_t mode
        uint16_t count
        uint32_t flags
        uint64_t release

    struct rfp_response_header:
        uint32_t crc
        uint32_t sequence
        uint32_t length
        uint16_t time
        uint8_t status
        uint8_t kind
        uint64_t result

    struct rfp_reference:
        uint64_t offset
        uint64_t length
        uint64_t pin
        uint64_t lease

    uint32_t rfp_next_sequence(uint32_t sequence)
    uint32_t rfp_request_seal(char *slot)
    int rfp_request_take(const char *slot, uint32_t slot_size, uint32_t sequence, char *copy)
    void rfp_response_publish(char *slot, uint32_t sequence, uint32_t length, uint64_t ns,
                              uint8_t status, uint8_t kind, uint64_t result, bint checked)
    int rfp_response_check(const char *copy, uint32_t available, uint32_t slot_size,
                           uint32_t sequence, bint checked)
