/* Fuzzes the checks of a request slot at a server and of a response at a client, without the rest:
 * rfp/protocol/wire.h.
 *
 *   clang -g -fsanitize=fuzzer,address,undefined -I. tests/fuzz/fuzz_wire.c -o fuzz_wire &&
 *     ./fuzz_wire -max_total_time=60
 *   gcc -g -fsanitize=address,undefined -DSTANDALONE -I. tests/fuzz/fuzz_wire.c -o fuzz_wire &&
 *     ./fuzz_wire 1000000    (or: file ...)
 *
 * AFL: build the second with afl-clang-fast; it reads the files given as arguments.
 *
 * The slot and the copy are in heap blocks of exactly their size, so that one byte read or written
 * beyond is an error.  An accepted message must be the one that was sent: the check is repeated with
 * the copy alone.
 */
#include <stdio.h>
#include <stdlib.h>

#include "rfp/protocol/wire.h"

#define FAIL(reason) do { fprintf(stderr, "%s\n", reason); abort(); } while (0)

static char *block(size_t n)
{
    char *p = aligned_alloc(8, (n + 7) & ~(size_t)7);
    if (!p) abort();
    return p;
}

static void request(const uint8_t *data, size_t size, uint32_t slot_size, uint32_t sequence,
                    int seal)
{
    char *slot = block(slot_size), *copy = block(slot_size);
    struct rfp_request_header header;
    int found;
    memset(slot, 0, slot_size);
    memcpy(slot, data, size < slot_size ? size : slot_size);
    memcpy(&header, slot, sizeof header);
    seal = seal && header.length <= slot_size - RFP_REQUEST_HEADER;
    if (seal) {
        /* A valid CRC leads the fuzzer to the code after the check. */
        header.sequence = sequence;
        memcpy(slot, &header, sizeof header);
        rfp_request_seal(slot);
    }
    found = rfp_request_take(slot, slot_size, sequence, copy);
    memcpy(&header, copy, sizeof header);
    if (found == RFP_TAKE_VALID) {
        uint32_t covered = RFP_REQUEST_HEADER - 8 + header.length;
        if (header.sequence != sequence || header.length > slot_size - RFP_REQUEST_HEADER)
            FAIL("accepted an invalid header");
        if (memcmp(copy + 8, slot + 8, covered)) FAIL("the copy differs from the request");
        if (rfp_crc32c(0, copy + 8, covered) != header.crc) FAIL("accepted a wrong checksum");
    } else if (seal)
        FAIL("refused an honest request");
    free(slot);
    free(copy);
}

static void response(const uint8_t *data, size_t size, uint32_t slot_size, uint32_t sequence,
                     int checked)
{
    uint32_t available = (uint32_t)(size < slot_size ? size : slot_size);
    struct rfp_response_header header;
    char *copy;
    int found;
    if (available < RFP_RESPONSE_HEADER) return;
    copy = block(available);
    memcpy(copy, data, available);
    found = rfp_response_check(copy, available, slot_size, sequence, checked);
    memcpy(&header, copy, sizeof header);
    if (found == RFP_RESPONSE_WHOLE) {
        uint32_t covered = RFP_RESPONSE_HEADER - 4 + header.length;
        if (header.sequence != sequence || RFP_RESPONSE_HEADER + header.length > available)
            FAIL("accepted a response longer than the bytes read");
        if (checked && rfp_crc32c(0, copy + 4, covered) != header.crc)
            FAIL("accepted a torn response");
    }
    if (found == RFP_RESPONSE_MORE && header.length > slot_size - RFP_RESPONSE_HEADER)
        FAIL("accepted a response longer than a slot");
    free(copy);
}

static void publish(const uint8_t *data, size_t size, uint32_t slot_size, uint32_t sequence)
{
    uint32_t most = slot_size - RFP_RESPONSE_HEADER;
    uint32_t length = (uint32_t)(size < most ? size : most);
    char *slot = block(slot_size);
    memcpy(slot + RFP_RESPONSE_HEADER, data, length);
    rfp_response_publish(slot, sequence, length, size * 1000, 0, 0, size, 1);
    if (rfp_response_check(slot, slot_size, slot_size, sequence, 1) != RFP_RESPONSE_WHOLE)
        FAIL("a published response is not whole");
    if (length) {
        slot[RFP_RESPONSE_HEADER + size % length] ^= 1;
        if (rfp_response_check(slot, slot_size, slot_size, sequence, 1) != RFP_RESPONSE_TORN)
            FAIL("a flipped bit was not detected");
    }
    free(slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t slot_size, sequence;
    if (size < 8) return 0;
    slot_size = 64 * (1 + data[0] % 33);
    memcpy(&sequence, data + 4, 4);
    sequence = sequence ? sequence : 1;
    request(data + 8, size - 8, slot_size, sequence, data[1] & 1);
    response(data + 8, size - 8, slot_size, sequence, data[1] >> 1 & 1);
    publish(data + 8, size - 8, slot_size, sequence);
    return 0;
}

#ifdef STANDALONE
/* Without libFuzzer: the given files, or so many pseudo-random inputs. */
int main(int argc, char **argv)
{
    static uint8_t data[4096];
    uint64_t state = 88172645463325252u;
    long rounds = argc > 1 ? atol(argv[1]) : 100000;
    if (rounds <= 0) {
        for (int i = 1; i < argc; i++) {
            FILE *file = fopen(argv[i], "rb");
            if (!file) return 2;
            LLVMFuzzerTestOneInput(data, fread(data, 1, sizeof data, file));
            fclose(file);
        }
        return 0;
    }
    for (long n = 0; n < rounds; n++) {
        size_t size = 0;
        for (size_t i = 0; i < sizeof data; i += 8) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            memcpy(data + i, &state, 8);
            if (i == 0) size = state % 2400;
            if (i > size) break;
        }
        if (size > 24 && n % 2) {   /* a plausible length */
            data[21] = data[22] = data[23] = 0;
            data[20] = (uint8_t)(state >> 40);
        }
        LLVMFuzzerTestOneInput(data, size);
    }
    printf("%ld inputs\n", rounds);
    return 0;
}
#endif
