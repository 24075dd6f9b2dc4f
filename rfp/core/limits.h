/* Sizes and limits that more than one layer uses.  limits.pyx makes them available in Python. */
#ifndef RFP_CORE_LIMITS_H
#define RFP_CORE_LIMITS_H

#define RFP_LINE 64                  /* bytes: a cache line, in every format */
#define RFP_PAGE 4096                /* bytes: the smallest page of a kernel; a page of a pool */
#define RFP_HUGE_PAGE (2u << 20)     /* bytes */
#define RFP_MAPPED_BYTES_MAX (1ull << 47) /* the address space of a process */

#define RFP_WORKERS_MAX 64           /* of a server; each has a partition */
#define RFP_SLOTS_MAX 256            /* of a ring, in which a client takes part */
#define RFP_SLOT_BYTES_MAX (1u << 20)
/* Classes of response sizes, in lines; the last one counts 64 lines and more. */
#define RFP_SIZE_CLASSES 65

#endif
