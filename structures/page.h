/* A page of the B+tree: entries of any length in the order of their keys.
 *
 *   0        32      40                                                              4032
 *   +--------+-------+----+----+----+---------------+---------+------+---------+------+
 *   | node   | count | s0 | s1 | s2 |      gap      | entry 1 | dead | entry 0 |  ... |
 *   | header | heap..|    |    |    |               |         |      |         |      |
 *   +--------+-------+----+----+----+---------------+---------+------+---------+------+
 *                      slots: offsets, in the       ^ heap: offset of the lowest entry
 *                      order of the keys  -->     <--  entries grow down, in any order
 *
 *   an entry:  sizes (4) | key | payload        leaf: the value, or its node's address
 *                                               inner page: the child's address
 *
 * Slots grow up from the header; entries grow down from the end.  An insertion without room in the
 * gap first rewrites the page without its dead bytes; if that is not enough, the page is split.
 * Pages come from memory that other processes write, so every reader checks all that it reads;
 * code that changes a page may rely on page_sound().
 */
#ifndef STRUCTURES_PAGE_H
#define STRUCTURES_PAGE_H

#include "rfp/core/atomics.h"
#include "structures/layout.h"

#define PAGE_BYTES 4032u
#define PAGE_FIRST 40u     /* offset of the first slot */
#define PAGE_ROOM (PAGE_BYTES - PAGE_FIRST)
#define PAGE_INLINE 256u   /* values longer than this have nodes of their own */
#define PAGE_SLOTS ((PAGE_ROOM) / 2)

struct page {
    struct rnvm_node node;
    uint16_t count;
    uint16_t heap;     /* offset of the lowest entry */
    uint16_t dead;     /* bytes above `heap` that no entry uses */
    uint16_t level;    /* 0: leaf; above: an entry's payload is the address of the page with the
                        * keys from its key on */
    uint16_t slots[PAGE_SLOTS];
};
struct page_entry {    /* an entry as it is in a page, at any address: sizes, key, payload */
    const char *key;
    const char *payload;
    uint32_t sizes;
    uint32_t key_length;
    uint32_t payload_length; /* 8 for a value that has a node of its own: its address */
};

_Static_assert(sizeof(struct page) <= PAGE_BYTES
                   && __builtin_offsetof(struct page, slots) == PAGE_FIRST, "page");

static inline uint32_t page_payload(uint32_t sizes)
{
    return VALUE_OF(sizes) <= PAGE_INLINE ? VALUE_OF(sizes) : 8;
}

static inline uint32_t page_entry_size(uint32_t sizes)
{
    return 4 + KEY_OF(sizes) + page_payload(sizes);
}
/* The most that an entry and its slot take: a third of a page, so that any page that is too full
 * can be split in two. */
_Static_assert(2 + 4 + KEY_MAX + PAGE_INLINE <= PAGE_ROOM / 3, "largest entry");

static inline uint32_t page_used(const struct page *p)
{
    return 2u * p->count + (PAGE_BYTES - p->heap) - p->dead;
}

static inline uint32_t page_gap(const struct page *p)
{
    return p->heap - PAGE_FIRST - 2u * p->count;
}

static inline int page_sound(const struct page *p)
{
    return p->count <= PAGE_SLOTS && p->heap <= PAGE_BYTES
           && p->heap >= PAGE_FIRST + 2u * p->count && p->dead <= PAGE_BYTES - p->heap;
}

/* Reads the entry with this index, below count; returns whether it is within the page. */
static inline int page_entry_at(const struct page *p, uint32_t index, struct page_entry *e)
{
    uint32_t at = p->slots[index];
    if (at < p->heap || at > PAGE_BYTES - 4) return 0;
    memcpy(&e->sizes, (const char *)p + at, 4);
    if (page_entry_size(e->sizes) > PAGE_BYTES - at) return 0;
    e->key_length = KEY_OF(e->sizes);
    e->payload_length = page_payload(e->sizes);
    e->key = (const char *)p + at + 4;
    e->payload = e->key + e->key_length;
    return 1;
}

static inline int keys_compare(const char *a, uint32_t a_length, const char *b, uint32_t b_length)
{
    int order = memcmp(a, b, a_length < b_length ? a_length : b_length);
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

/* Returns the index of the first entry whose key is not below this one; *found: whether it is
 * equal.  Below 0: the page is not whole.  The first key of an inner page means nothing: its child
 * has all keys below the second one. */
static inline int page_search(const struct page *p, const char *key, uint32_t length, int *found)
{
    uint32_t low = p->level ? 1 : 0, high = p->count;
    struct page_entry e;
    *found = 0;
    /* The first three comparisons of a leaf, which is rarely in the processor's cache. */
    if (!p->level)
        for (uint32_t eighth = 1; eighth < 8; eighth++)
            rfp_prefetch((const char *)p + p->slots[high * eighth / 8]);
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        int order;
        /* The next comparison is with one of these: its cache miss begins now. */
        rfp_prefetch((const char *)p + p->slots[(low + middle) / 2]);
        rfp_prefetch((const char *)p + p->slots[(middle + high) / 2]);
        if (!page_entry_at(p, middle, &e)) return -1;
        order = keys_compare(e.key, e.key_length, key, length);
        if (order < 0)
            low = middle + 1;
        else {
            high = middle;
            *found = order == 0;
        }
    }
    return (int)low;
}

/* The functions below change pages that are sound: p is the page to be changed. */

static inline void page_clear(struct page *p, uint32_t level)
{
    memset((char *)p + sizeof p->node, 0, PAGE_BYTES - sizeof p->node);
    p->heap = PAGE_BYTES;
    p->level = (uint16_t)level;
}

/* Inserts an entry; returns 0: there is no room behind the slots. */
static inline int page_put(struct page *p, uint32_t index, uint32_t sizes, const char *key,
                           const char *payload)
{
    uint32_t at = p->heap - page_entry_size(sizes);
    if (page_entry_size(sizes) + 2 > page_gap(p) || index > p->count) return 0;
    memmove(p->slots + index + 1, p->slots + index, 2u * (p->count - index));
    p->slots[index] = (uint16_t)at;
    p->count++;
    p->heap = (uint16_t)at;
    memcpy((char *)p + at, &sizes, 4);
    memcpy((char *)p + at + 4, key, KEY_OF(sizes));
    memcpy((char *)p + at + 4 + KEY_OF(sizes), payload, page_payload(sizes));
    return 1;
}

static inline int page_append(struct page *p, const struct page_entry *e)
{
    return page_put(p, p->count, e->sizes, e->key, e->payload);
}

/* Removes an entry; returns 0: it is not within the page.  A damaged list of free pages may have
 * given one page to two levels of a tree, after both were read. */
static inline int page_remove(struct page *p, uint32_t index)
{
    struct page_entry e;
    uint32_t at;
    if (!page_sound(p) || index >= p->count || !page_entry_at(p, index, &e)) return 0;
    at = p->slots[index];
    if (at == p->heap)
        p->heap = (uint16_t)(at + page_entry_size(e.sizes));
    else
        p->dead = (uint16_t)(p->dead + page_entry_size(e.sizes));
    memmove(p->slots + index, p->slots + index + 1, 2u * (p->count - index - 1));
    p->count--;
    p->slots[p->count] = 0;
    if (!p->count) {
        p->heap = PAGE_BYTES;
        p->dead = 0;
    }
    return 1;
}

/* Appends the entries first...to-1 of another page; returns 0: that page is not whole. */
static inline int page_take(struct page *p, const struct page *from, uint32_t first, uint32_t to)
{
    struct page_entry e;
    for (; first < to; first++)
        if (!page_entry_at(from, first, &e) || !page_append(p, &e)) return 0;
    return 1;
}

/* Returns how many bytes of the right key are enough for a separator: more than the last key on the
 * left, at most the first one on the right. */
static inline uint32_t separator_length(const char *left, uint32_t left_length,
                                        const char *right, uint32_t right_length)
{
    uint32_t n = 0;
    while (n < left_length && n < right_length && left[n] == right[n]) n++;
    return n < right_length ? n + 1 : right_length;
}

#endif
