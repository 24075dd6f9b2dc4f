/* libpmem2, for its knowledge of devices: opened on request, never linked.
 *
 * Only the few calls that map a file and find its flush and drain functions; their types are those
 * of libpmem2.h 1.12.
 */
#ifndef RNVM_MEDIA_LIBPMEM2_H
#define RNVM_MEDIA_LIBPMEM2_H

#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>

struct rnvm_pmem2 {
    void *library, *source, *config, *map;
    void *(*address)(void *map);
    void (*flush)(const void *, size_t);
    void (*drain)(void);
    int granularity; /* 0: byte, 1: cache line, 2: page */
    char trouble[256];
};

static inline void *rnvm_pmem2_symbol(struct rnvm_pmem2 *p, const char *name)
{
    void *found = p->library ? dlsym(p->library, name) : NULL;
    if (!found && !p->trouble[0])
        snprintf(p->trouble, sizeof p->trouble, "libpmem2 has no %s", name);
    return found;
}

static inline void rnvm_pmem2_close(struct rnvm_pmem2 *p)
{
    int (*unmap)(void **) = NULL, (*drop_config)(void **) = NULL, (*drop_source)(void **) = NULL;
    if (!p->library) return;
    *(void **)&unmap = dlsym(p->library, "pmem2_map_delete");
    *(void **)&drop_config = dlsym(p->library, "pmem2_config_delete");
    *(void **)&drop_source = dlsym(p->library, "pmem2_source_delete");
    if (p->map && unmap) unmap(&p->map);
    if (p->config && drop_config) drop_config(&p->config);
    if (p->source && drop_source) drop_source(&p->source);
    dlclose(p->library);
    p->library = NULL;
}

/* Returns 0, or -1 with p->trouble set. */
static inline int rnvm_pmem2_open(struct rnvm_pmem2 *p, int fd)
{
    int (*source_from_fd)(void **, int), (*config_new)(void **), (*require)(void *, int);
    int (*map_new)(void **, void *, void *), (*granularity)(void *);
    const char *(*message)(void);
    void (*(*flush_function)(void *))(const void *, size_t);
    void (*(*drain_function)(void *))(void);
    p->library = dlopen("libpmem2.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!p->library) {
        snprintf(p->trouble, sizeof p->trouble, "%s", dlerror());
        return -1;
    }
    *(void **)&source_from_fd = rnvm_pmem2_symbol(p, "pmem2_source_from_fd");
    *(void **)&config_new = rnvm_pmem2_symbol(p, "pmem2_config_new");
    *(void **)&require = rnvm_pmem2_symbol(p, "pmem2_config_set_required_store_granularity");
    *(void **)&map_new = rnvm_pmem2_symbol(p, "pmem2_map_new");
    *(void **)&p->address = rnvm_pmem2_symbol(p, "pmem2_map_get_address");
    *(void **)&granularity = rnvm_pmem2_symbol(p, "pmem2_map_get_store_granularity");
    *(void **)&flush_function = rnvm_pmem2_symbol(p, "pmem2_get_flush_fn");
    *(void **)&drain_function = rnvm_pmem2_symbol(p, "pmem2_get_drain_fn");
    *(void **)&message = rnvm_pmem2_symbol(p, "pmem2_errormsg");
    if (p->trouble[0]) return -1;
    /* Cache lines at the coarsest: pages would mean msync, and for that there is the file
     * medium. */
    if (source_from_fd(&p->source, fd) || config_new(&p->config) || require(p->config, 1)
        || map_new(&p->map, p->config, p->source)) {
        snprintf(p->trouble, sizeof p->trouble, "libpmem2: %s", message());
        return -1;
    }
    p->granularity = granularity(p->map);
    p->flush = flush_function(p->map);
    p->drain = drain_function(p->map);
    return 0;
}

#endif
