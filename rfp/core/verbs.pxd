# Declarations of libibverbs, and of the table of its functions (verbs.h).  This file has no
# module.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "rfp/core/verbs.h" nogil:
    struct ibv_device:
        pass
    struct ibv_context:
        int cmd_fd
        int async_fd
    struct ibv_pd:
        pass
    struct ibv_comp_channel:
        int fd
    struct ibv_cq:
        int cqe
    struct ibv_mr:
        uint32_t lkey
        uint32_t rkey
    struct ibv_qp:
        uint32_t qp_num
    struct ibv_sge:
        uint64_t addr
        uint32_t length
        uint32_t lkey
    struct rfp_rdma "rdma":                 # not named in C: only its members are
        uint64_t remote_addr
        uint32_t rkey
    struct rfp_atomic "atomic":
        uint64_t remote_addr
        uint64_t compare_add
        uint64_t swap
        uint32_t rkey
    union rfp_wr "wr":
        rfp_rdma rdma
        rfp_atomic atomic
    struct ibv_send_wr:
        uint64_t wr_id
        ibv_send_wr *next
        ibv_sge *sg_list
        int num_sge
        int opcode
        unsigned int send_flags
        uint32_t imm_data
        rfp_wr wr
    struct ibv_recv_wr:
        uint64_t wr_id
        ibv_recv_wr *next
        ibv_sge *sg_list
        int num_sge
    struct ibv_wc:
        uint64_t wr_id
        int status
        uint32_t vendor_err
    int IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE, IBV_WR_RDMA_WRITE_WITH_IMM
    int IBV_WR_ATOMIC_CMP_AND_SWP, IBV_WR_ATOMIC_FETCH_AND_ADD
    unsigned int IBV_SEND_SIGNALED, IBV_SEND_SOLICITED, IBV_SEND_INLINE
    int IBV_WC_SUCCESS, IBV_WC_LOC_LEN_ERR, IBV_WC_LOC_QP_OP_ERR, IBV_WC_LOC_PROT_ERR
    int IBV_WC_WR_FLUSH_ERR
    int IBV_WC_REM_INV_REQ_ERR, IBV_WC_REM_ACCESS_ERR, IBV_WC_RETRY_EXC_ERR
    int IBV_WC_RNR_RETRY_EXC_ERR
    int ibv_post_send(ibv_qp *qp, ibv_send_wr *wr, ibv_send_wr **bad)
    int ibv_post_recv(ibv_qp *qp, ibv_recv_wr *wr, ibv_recv_wr **bad)
    int ibv_poll_cq(ibv_cq *cq, int n, ibv_wc *wc)
    int ibv_req_notify_cq(ibv_cq *cq, int solicited_only)
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
    struct rfp_verbs:                       # the last two are called on the hot path
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
        ibv_cq *(*create_cq)(ibv_context *context, int n, void *user, ibv_comp_channel *channel,
                             int vector) noexcept nogil
        int (*destroy_cq)(ibv_cq *cq) noexcept nogil
        ibv_comp_channel *(*create_comp_channel)(ibv_context *context) noexcept nogil
        int (*destroy_comp_channel)(ibv_comp_channel *channel) noexcept nogil
        ibv_qp *(*create_qp)(ibv_pd *pd, ibv_qp_init_attr *attributes) noexcept nogil
        int (*modify_qp)(ibv_qp *qp, ibv_qp_attr *attributes, int mask) noexcept nogil
        int (*destroy_qp)(ibv_qp *qp) noexcept nogil
        const char *(*wc_status_str)(int status) noexcept nogil
        int (*fork_init)() noexcept nogil
        int (*get_cq_event)(ibv_comp_channel *channel, ibv_cq **cq, void **context) noexcept nogil
        void (*ack_cq_events)(ibv_cq *cq, unsigned int n) noexcept nogil
    const char *rfp_verbs_open(rfp_verbs *table)
    const char *rfp_verbs_path(const rfp_verbs *table)
    int rfp_verbs_query_port(const rfp_verbs *table, ibv_context *context, uint8_t port,
                             ibv_port_attr *attributes)
