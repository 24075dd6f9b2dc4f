/* libibverbs, loaded at run time when an rdma:// address needs it.  Its declarations come with this
 * package (rfp/vendor/ibverbs.h), so every build contains the verbs provider, imports on machines
 * without the library and works with any release of it.
 *
 * Functions of the cold path are looked up by name and symbol version: the library contains old and
 * new versions of one name side by side, and a plain dlsym would return either.  Those of the hot
 * path (post, poll, arm) are inline in the declarations and go through the context's table.
 * rdma-core's own header also defines ibv_query_port and ibv_reg_mr as macros, which call newer
 * symbols than the oldest library has; the declarations here contain only the functions.
 */
#ifndef RFP_CORE_VERBS_H
#define RFP_CORE_VERBS_H

#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

#include "rfp/core/verbs_abi.h"

#define RFP_VERBS_LIBRARY "libibverbs.so.1"

#define RFP_VERBS_FUNCTIONS(each)                                                                 \
    each(get_device_list, "IBVERBS_1.1") each(free_device_list, "IBVERBS_1.1")                    \
    each(get_device_name, "IBVERBS_1.1") each(open_device, "IBVERBS_1.1")                         \
    each(close_device, "IBVERBS_1.1") each(query_device, "IBVERBS_1.1")                           \
    each(query_port, "IBVERBS_1.1") each(query_gid, "IBVERBS_1.1") each(alloc_pd, "IBVERBS_1.1")  \
    each(dealloc_pd, "IBVERBS_1.1") each(reg_mr, "IBVERBS_1.1") each(dereg_mr, "IBVERBS_1.1")     \
    each(create_cq, "IBVERBS_1.1") each(destroy_cq, "IBVERBS_1.1")                                \
    each(create_comp_channel, "IBVERBS_1.0") each(destroy_comp_channel, "IBVERBS_1.0")            \
    each(get_cq_event, "IBVERBS_1.1") each(ack_cq_events, "IBVERBS_1.1")                          \
    each(create_qp, "IBVERBS_1.1") each(modify_qp, "IBVERBS_1.1")                                 \
    each(destroy_qp, "IBVERBS_1.1") each(wc_status_str, "IBVERBS_1.1")                            \
    each(fork_init, "IBVERBS_1.1")

struct rfp_verbs {
#define RFP_VERBS_MEMBER(name, version) __typeof__(ibv_##name) *name;
    RFP_VERBS_FUNCTIONS(RFP_VERBS_MEMBER)
#undef RFP_VERBS_MEMBER
};

/* Fills the table.  Returns NULL, or the name of the missing part.  The library stays loaded: it
 * cannot be unloaded safely. */
static inline const char *rfp_verbs_open(struct rfp_verbs *verbs)
{
    void *library = dlopen(RFP_VERBS_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) return dlerror();
#define RFP_VERBS_LOOK_UP(name, version)                                                          \
    *(void **)&verbs->name = dlvsym(library, "ibv_" #name, version);                              \
    if (!verbs->name) return RFP_VERBS_LIBRARY " has no ibv_" #name " of version " version;
    RFP_VERBS_FUNCTIONS(RFP_VERBS_LOOK_UP)
#undef RFP_VERBS_LOOK_UP
    return NULL;
}

/* Where the library was found, for messages. */
static inline const char *rfp_verbs_path(const struct rfp_verbs *verbs)
{
    Dl_info found;
    int known = dladdr(*(void *const *)&verbs->open_device, &found) && found.dli_fname;
    return known ? found.dli_fname : RFP_VERBS_LIBRARY;
}

/* The exported function fills the part of the structure that has been there from the beginning. */
static inline int rfp_verbs_query_port(const struct rfp_verbs *verbs, struct ibv_context *context,
                                       uint8_t port, struct ibv_port_attr *attributes)
{
    memset(attributes, 0, sizeof *attributes);
    return verbs->query_port(context, port, (struct _compat_ibv_port_attr *)attributes);
}

#endif
