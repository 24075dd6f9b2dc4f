# libibverbs, an opened device, and a protection domain: the base of all objects of the verbs
# provider.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from rfp.fabric.verbs.datapath cimport (
    ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_mr, ibv_pd, ibv_qp, rfp_verbs,
)

cdef extern from "rfp/core/verbs.h" nogil:
    union ibv_gid:
        uint8_t raw[16]
    struct ibv_device_attr:
        uint64_t max_mr_size
        int max_qp_wr
        int max_cqe
        int max_qp_rd_atom
        int max_qp_init_rd_atom
        int atomic_cap
    struct ibv_port_attr:
        int state
        int active_mtu
        uint16_t lid
        uint32_t max_msg_sz
        uint8_t link_layer
    struct ibv_global_route:
        ibv_gid dgid
        uint8_t sgid_index
        uint8_t hop_limit
        uint8_t traffic_class
    struct ibv_ah_attr:
        ibv_global_route grh
        uint16_t dlid
        uint8_t sl
        uint8_t is_global
        uint8_t port_num
    struct ibv_qp_cap:
        uint32_t max_send_wr
        uint32_t max_recv_wr
        uint32_t max_send_sge
        uint32_t max_recv_sge
        uint32_t max_inline_data
    struct ibv_qp_init_attr:
        ibv_cq *send_cq
        ibv_cq *recv_cq
        ibv_qp_cap cap
        int qp_type
        int sq_sig_all
    struct ibv_qp_attr:
        int qp_state
        int path_mtu
        uint32_t rq_psn
        uint32_t sq_psn
        uint32_t dest_qp_num
        unsigned int qp_access_flags
        ibv_ah_attr ah_attr
        uint16_t pkey_index
        uint8_t max_rd_atomic
        uint8_t max_dest_rd_atomic
        uint8_t min_rnr_timer
        uint8_t port_num
        uint8_t timeout
        uint8_t retry_cnt
        uint8_t rnr_retry
    enum:
        IBV_ACCESS_LOCAL_WRITE
        IBV_ACCESS_REMOTE_WRITE
        IBV_ACCESS_REMOTE_READ
        IBV_ACCESS_REMOTE_ATOMIC
        IBV_ATOMIC_NONE
        IBV_PORT_ACTIVE
        IBV_LINK_LAYER_ETHERNET
        IBV_QPT_RC
        IBV_QPS_INIT
        IBV_QPS_RTR
        IBV_QPS_RTS
        IBV_QP_STATE
        IBV_QP_ACCESS_FLAGS
        IBV_QP_PKEY_INDEX
        IBV_QP_PORT
        IBV_QP_AV
        IBV_QP_PATH_MTU
        IBV_QP_TIMEOUT
        IBV_QP_RETRY_CNT
        IBV_QP_RNR_RETRY
        IBV_QP_RQ_PSN
        IBV_QP_MAX_QP_RD_ATOMIC
        IBV_QP_MIN_RNR_TIMER
        IBV_QP_SQ_PSN
        IBV_QP_MAX_DEST_RD_ATOMIC
        IBV_QP_DEST_QPN
    struct verbs_functions "rfp_verbs":     # the same table, with the functions of the cold path
        ibv_device **(*get_device_list)(int *n) noexcept nogil
        void (*free_device_list)(ibv_device **devices) noexcept nogil
        const char *(*get_device_name)(ibv_device *device) noexcept nogil
        ibv_context *(*open_device)(ibv_device *device) noexcept nogil
        int (*close_device)(ibv_context *context) noexcept nogil
        int (*query_device)(ibv_context *context, ibv_device_attr *attributes) noexcept nogil
        int (*query_gid)(ibv_context *context, uint8_t port, int index, ibv_gid *gid) noexcept nogil
        ibv_pd *(*alloc_pd)(ibv_context *context) noexcept nogil
        int (*dealloc_pd)(ibv_pd *pd) noexcept nogil
        ibv_mr *(*reg_mr)(ibv_pd *pd, void *base, size_t length, int access) noexcept nogil
        int (*dereg_mr)(ibv_mr *mr) noexcept nogil
        ibv_cq *(*create_cq)(ibv_context *context, int n, void *user, ibv_comp_channel *channel, int vector) noexcept nogil
        int (*destroy_cq)(ibv_cq *cq) noexcept nogil
        ibv_comp_channel *(*create_comp_channel)(ibv_context *context) noexcept nogil
        int (*destroy_comp_channel)(ibv_comp_channel *channel) noexcept nogil
        ibv_qp *(*create_qp)(ibv_pd *pd, ibv_qp_init_attr *attributes) noexcept nogil
        int (*modify_qp)(ibv_qp *qp, ibv_qp_attr *attributes, int mask) noexcept nogil
        int (*destroy_qp)(ibv_qp *qp) noexcept nogil
        const char *(*wc_status_str)(int status) noexcept nogil
        int (*fork_init)() noexcept nogil


cdef verbs_functions verbs              # filled by the first open_library()
cdef const rfp_verbs *open_library() except NULL
cdef object device_error(str what, int error, str hint=*)


cdef class Device:
    """An opened device; closed with the last object made on it."""
    cdef ibv_context *context
    cdef ibv_device_attr limits
    cdef ibv_port_attr port
    cdef ibv_gid gid
    cdef readonly object choice         # rfp.fabric.verbs.select_device.Choice
    cdef object __weakref__


cdef class Domain:
    """A protection domain."""
    cdef ibv_pd *pd
    cdef Device device
    cdef object __weakref__
