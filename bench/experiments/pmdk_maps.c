/* Inserts into one of PMDK's example maps, whose sources libpmemobj-dev has (pmdk_maps.py compiles
 * them with this file):
 *
 *     pmdk_maps MAP POOL BYTES FIRST COUNT SECONDS
 *
 * inserts COUNT new keys, from number FIRST on, each with a value of 64 bytes and in a transaction
 * of its own, until SECONDS are over.  It prints the number of keys and the nanoseconds.  The pool
 * is created if FIRST is 0. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "map.h"
#include "map_btree.h"
#include "map_ctree.h"
#include "map_hashmap_tx.h"
#include "map_rbtree.h"
#include "map_skiplist.h"

#define VALUE 64
#define CHUNK 500 /* inserts between two reads of the clock, as in timing.py */

struct root {
    TOID(struct map) map;
};
POBJ_LAYOUT_BEGIN(maps);
POBJ_LAYOUT_ROOT(maps, struct root);
POBJ_LAYOUT_END(maps);

static const struct map_ops *ops_of(const char *name)
{
    if (!strcmp(name, "btree"))
        return MAP_BTREE;
    if (!strcmp(name, "ctree"))
        return MAP_CTREE;
    if (!strcmp(name, "rbtree"))
        return MAP_RBTREE;
    if (!strcmp(name, "skiplist"))
        return MAP_SKIPLIST;
    if (!strcmp(name, "hashmap_tx"))
        return MAP_HASHMAP_TX;
    return NULL;
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A bijection whose results are in random order (splitmix64): no key comes twice. */
static uint64_t key_of(uint64_t number)
{
    uint64_t x = number + UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static int insert(PMEMobjpool *pool, struct map_ctx *context, TOID(struct map) map, uint64_t key)
{
    volatile int failed = 0;
    TX_BEGIN(pool)
    {
        PMEMoid value = pmemobj_tx_alloc(VALUE, 1);
        memset(pmemobj_direct(value), 0, VALUE);
        failed = map_insert(context, map, key, value);
    }
    TX_ONABORT
    {
        failed = 1;
    }
    TX_END
    return failed;
}

int main(int count_of_arguments, char **arguments)
{
    const struct map_ops *ops;
    PMEMobjpool *pool;
    struct map_ctx *context;
    TOID(struct root) root;
    uint64_t first, count, done = 0, began, until, ended;
    if (count_of_arguments != 7 || (ops = ops_of(arguments[1])) == NULL) {
        fprintf(stderr, "usage: pmdk_maps MAP POOL BYTES FIRST COUNT SECONDS\n");
        return 2;
    }
    first = strtoull(arguments[4], NULL, 10);
    count = strtoull(arguments[5], NULL, 10);
    pool = first ? pmemobj_open(arguments[2], POBJ_LAYOUT_NAME(maps))
                 : pmemobj_create(arguments[2], POBJ_LAYOUT_NAME(maps),
                                  strtoull(arguments[3], NULL, 10), 0600);
    if (pool == NULL) {
        fprintf(stderr, "%s\n", pmemobj_errormsg());
        return 1;
    }
    context = map_ctx_init(ops, pool);
    root = POBJ_ROOT(pool, struct root);
    if (context == NULL || (!first && map_create(context, &D_RW(root)->map, NULL)) ||
        map_init(context, D_RO(root)->map)) {
        fprintf(stderr, "cannot create the map: %s\n", pmemobj_errormsg());
        return 1;
    }
    began = ended = now();
    until = began + (uint64_t)(strtod(arguments[6], NULL) * 1e9);
    while (done < count && ended < until) {
        uint64_t last = done + CHUNK < count ? done + CHUNK : count;
        for (; done < last; done++)
            if (insert(pool, context, D_RO(root)->map, key_of(first + done))) {
                fprintf(stderr, "cannot insert: %s\n", pmemobj_errormsg());
                return 1;
            }
        ended = now();
    }
    if (map_lookup(context, D_RO(root)->map, key_of(first + done - 1)) != 1) {
        fprintf(stderr, "the last key is not in the map\n");
        return 1;
    }
    printf("%" PRIu64 " %" PRIu64 "\n", done, ended - began);
    map_ctx_free(context);
    pmemobj_close(pool);
    return 0;
}
