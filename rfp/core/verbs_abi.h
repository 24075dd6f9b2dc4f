/* The parts of libibverbs' binary interface that rfp uses, checked whenever a module that uses them
 * is compiled.
 *
 * The library is loaded at run time and may be older or newer than the declarations in
 * rfp/vendor/ibverbs.h.  The offsets and values below have not changed since symbol version
 * IBVERBS_1.1.  A size is checked if the library writes the structure, if arrays of it are passed
 * or if it is a member.  It is not if the library alone allocates the structure (two contain
 * pthread types, whose size depends on the architecture), or if releases appended members:
 * ibv_port_attr, ibv_qp_attr and ibv_send_wr, of which the library reads only what the mask or the
 * opcode selects. tests/core/test_vendor.py compiles the same file against the system's header.
 */
#ifndef RFP_CORE_VERBS_ABI_H
#define RFP_CORE_VERBS_ABI_H

#include "rfp/vendor/ibverbs.h"

#define RFP_ABI_SIZE(type, size) _Static_assert(sizeof(type) == (size), "sizeof " #type);
#define RFP_ABI_MEMBER(type, member, offset, size)                                                 \
    _Static_assert(offsetof(type, member) == (offset) && sizeof(((type *)0)->member) == (size),    \
                   #type "." #member);
#define RFP_ABI_VALUE(name, value) _Static_assert((int)(name) == (value), #name);

RFP_ABI_MEMBER(struct ibv_context, ops, 8, 256)
RFP_ABI_MEMBER(struct ibv_context, cmd_fd, 264, 4)
RFP_ABI_MEMBER(struct ibv_context, async_fd, 268, 4)

RFP_ABI_MEMBER(struct ibv_context_ops, poll_cq, 88, 8)
RFP_ABI_MEMBER(struct ibv_context_ops, req_notify_cq, 96, 8)
RFP_ABI_MEMBER(struct ibv_context_ops, post_send, 200, 8)
RFP_ABI_MEMBER(struct ibv_context_ops, post_recv, 208, 8)

RFP_ABI_MEMBER(struct ibv_pd, context, 0, 8)

RFP_ABI_MEMBER(struct ibv_mr, lkey, 36, 4)
RFP_ABI_MEMBER(struct ibv_mr, rkey, 40, 4)

RFP_ABI_MEMBER(struct ibv_comp_channel, fd, 8, 4)

RFP_ABI_MEMBER(struct ibv_cq, context, 0, 8)
RFP_ABI_MEMBER(struct ibv_cq, cqe, 28, 4)

RFP_ABI_MEMBER(struct ibv_qp, context, 0, 8)
RFP_ABI_MEMBER(struct ibv_qp, qp_num, 52, 4)

RFP_ABI_SIZE(struct ibv_sge, 16)
RFP_ABI_MEMBER(struct ibv_sge, addr, 0, 8)
RFP_ABI_MEMBER(struct ibv_sge, length, 8, 4)
RFP_ABI_MEMBER(struct ibv_sge, lkey, 12, 4)

RFP_ABI_MEMBER(struct ibv_send_wr, wr_id, 0, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, next, 8, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, sg_list, 16, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, num_sge, 24, 4)
RFP_ABI_MEMBER(struct ibv_send_wr, opcode, 28, 4)
RFP_ABI_MEMBER(struct ibv_send_wr, send_flags, 32, 4)
RFP_ABI_MEMBER(struct ibv_send_wr, imm_data, 36, 4)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.rdma.remote_addr, 40, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.rdma.rkey, 48, 4)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.atomic.remote_addr, 40, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.atomic.compare_add, 48, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.atomic.swap, 56, 8)
RFP_ABI_MEMBER(struct ibv_send_wr, wr.atomic.rkey, 64, 4)

RFP_ABI_SIZE(struct ibv_recv_wr, 32)
RFP_ABI_MEMBER(struct ibv_recv_wr, wr_id, 0, 8)
RFP_ABI_MEMBER(struct ibv_recv_wr, next, 8, 8)
RFP_ABI_MEMBER(struct ibv_recv_wr, sg_list, 16, 8)
RFP_ABI_MEMBER(struct ibv_recv_wr, num_sge, 24, 4)

RFP_ABI_SIZE(struct ibv_wc, 48)
RFP_ABI_MEMBER(struct ibv_wc, wr_id, 0, 8)
RFP_ABI_MEMBER(struct ibv_wc, status, 8, 4)
RFP_ABI_MEMBER(struct ibv_wc, vendor_err, 16, 4)

RFP_ABI_SIZE(union ibv_gid, 16)
RFP_ABI_MEMBER(union ibv_gid, raw, 0, 16)

RFP_ABI_SIZE(struct ibv_device_attr, 232)
RFP_ABI_MEMBER(struct ibv_device_attr, max_mr_size, 80, 8)
RFP_ABI_MEMBER(struct ibv_device_attr, max_qp_wr, 112, 4)
RFP_ABI_MEMBER(struct ibv_device_attr, max_cqe, 132, 4)
RFP_ABI_MEMBER(struct ibv_device_attr, max_qp_rd_atom, 144, 4)
RFP_ABI_MEMBER(struct ibv_device_attr, max_qp_init_rd_atom, 156, 4)
RFP_ABI_MEMBER(struct ibv_device_attr, atomic_cap, 164, 4)

RFP_ABI_MEMBER(struct ibv_port_attr, state, 0, 4)
RFP_ABI_MEMBER(struct ibv_port_attr, active_mtu, 8, 4)
RFP_ABI_MEMBER(struct ibv_port_attr, max_msg_sz, 20, 4)
RFP_ABI_MEMBER(struct ibv_port_attr, lid, 34, 2)
RFP_ABI_MEMBER(struct ibv_port_attr, link_layer, 46, 1)

RFP_ABI_SIZE(struct ibv_global_route, 24)
RFP_ABI_MEMBER(struct ibv_global_route, dgid, 0, 16)
RFP_ABI_MEMBER(struct ibv_global_route, sgid_index, 20, 1)
RFP_ABI_MEMBER(struct ibv_global_route, hop_limit, 21, 1)
RFP_ABI_MEMBER(struct ibv_global_route, traffic_class, 22, 1)

RFP_ABI_SIZE(struct ibv_ah_attr, 32)
RFP_ABI_MEMBER(struct ibv_ah_attr, grh, 0, 24)
RFP_ABI_MEMBER(struct ibv_ah_attr, dlid, 24, 2)
RFP_ABI_MEMBER(struct ibv_ah_attr, sl, 26, 1)
RFP_ABI_MEMBER(struct ibv_ah_attr, is_global, 29, 1)
RFP_ABI_MEMBER(struct ibv_ah_attr, port_num, 30, 1)

RFP_ABI_SIZE(struct ibv_qp_cap, 20)
RFP_ABI_MEMBER(struct ibv_qp_cap, max_send_wr, 0, 4)
RFP_ABI_MEMBER(struct ibv_qp_cap, max_recv_wr, 4, 4)
RFP_ABI_MEMBER(struct ibv_qp_cap, max_send_sge, 8, 4)
RFP_ABI_MEMBER(struct ibv_qp_cap, max_recv_sge, 12, 4)
RFP_ABI_MEMBER(struct ibv_qp_cap, max_inline_data, 16, 4)

RFP_ABI_SIZE(struct ibv_qp_init_attr, 64)
RFP_ABI_MEMBER(struct ibv_qp_init_attr, send_cq, 8, 8)
RFP_ABI_MEMBER(struct ibv_qp_init_attr, recv_cq, 16, 8)
RFP_ABI_MEMBER(struct ibv_qp_init_attr, cap, 32, 20)
RFP_ABI_MEMBER(struct ibv_qp_init_attr, qp_type, 52, 4)
RFP_ABI_MEMBER(struct ibv_qp_init_attr, sq_sig_all, 56, 4)

RFP_ABI_MEMBER(struct ibv_qp_attr, qp_state, 0, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, path_mtu, 8, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, rq_psn, 20, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, sq_psn, 24, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, dest_qp_num, 28, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, qp_access_flags, 32, 4)
RFP_ABI_MEMBER(struct ibv_qp_attr, ah_attr, 56, 32)
RFP_ABI_MEMBER(struct ibv_qp_attr, pkey_index, 120, 2)
RFP_ABI_MEMBER(struct ibv_qp_attr, max_rd_atomic, 126, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, max_dest_rd_atomic, 127, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, min_rnr_timer, 128, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, port_num, 129, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, timeout, 130, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, retry_cnt, 131, 1)
RFP_ABI_MEMBER(struct ibv_qp_attr, rnr_retry, 132, 1)

RFP_ABI_VALUE(IBV_ACCESS_LOCAL_WRITE, 1)
RFP_ABI_VALUE(IBV_ACCESS_REMOTE_WRITE, 2)
RFP_ABI_VALUE(IBV_ACCESS_REMOTE_READ, 4)
RFP_ABI_VALUE(IBV_ACCESS_REMOTE_ATOMIC, 8)
RFP_ABI_VALUE(IBV_ATOMIC_NONE, 0)
RFP_ABI_VALUE(IBV_PORT_ACTIVE, 4)
RFP_ABI_VALUE(IBV_LINK_LAYER_ETHERNET, 2)
RFP_ABI_VALUE(IBV_QPT_RC, 2)
RFP_ABI_VALUE(IBV_QPS_INIT, 1)
RFP_ABI_VALUE(IBV_QPS_RTR, 2)
RFP_ABI_VALUE(IBV_QPS_RTS, 3)
RFP_ABI_VALUE(IBV_QP_STATE, 1)
RFP_ABI_VALUE(IBV_QP_ACCESS_FLAGS, 8)
RFP_ABI_VALUE(IBV_QP_PKEY_INDEX, 16)
RFP_ABI_VALUE(IBV_QP_PORT, 32)
RFP_ABI_VALUE(IBV_QP_AV, 128)
RFP_ABI_VALUE(IBV_QP_PATH_MTU, 256)
RFP_ABI_VALUE(IBV_QP_TIMEOUT, 512)
RFP_ABI_VALUE(IBV_QP_RETRY_CNT, 1024)
RFP_ABI_VALUE(IBV_QP_RNR_RETRY, 2048)
RFP_ABI_VALUE(IBV_QP_RQ_PSN, 4096)
RFP_ABI_VALUE(IBV_QP_MAX_QP_RD_ATOMIC, 8192)
RFP_ABI_VALUE(IBV_QP_MIN_RNR_TIMER, 32768)
RFP_ABI_VALUE(IBV_QP_SQ_PSN, 65536)
RFP_ABI_VALUE(IBV_QP_MAX_DEST_RD_ATOMIC, 131072)
RFP_ABI_VALUE(IBV_QP_DEST_QPN, 1048576)
RFP_ABI_VALUE(IBV_WR_RDMA_READ, 4)
RFP_ABI_VALUE(IBV_WR_RDMA_WRITE, 0)
RFP_ABI_VALUE(IBV_WR_RDMA_WRITE_WITH_IMM, 1)
RFP_ABI_VALUE(IBV_WR_ATOMIC_CMP_AND_SWP, 5)
RFP_ABI_VALUE(IBV_WR_ATOMIC_FETCH_AND_ADD, 6)
RFP_ABI_VALUE(IBV_SEND_SIGNALED, 2)
RFP_ABI_VALUE(IBV_SEND_SOLICITED, 4)
RFP_ABI_VALUE(IBV_SEND_INLINE, 8)
RFP_ABI_VALUE(IBV_WC_SUCCESS, 0)
RFP_ABI_VALUE(IBV_WC_LOC_LEN_ERR, 1)
RFP_ABI_VALUE(IBV_WC_LOC_QP_OP_ERR, 2)
RFP_ABI_VALUE(IBV_WC_LOC_PROT_ERR, 4)
RFP_ABI_VALUE(IBV_WC_WR_FLUSH_ERR, 5)
RFP_ABI_VALUE(IBV_WC_REM_INV_REQ_ERR, 9)
RFP_ABI_VALUE(IBV_WC_REM_ACCESS_ERR, 10)
RFP_ABI_VALUE(IBV_WC_RETRY_EXC_ERR, 12)
RFP_ABI_VALUE(IBV_WC_RNR_RETRY_EXC_ERR, 13)

#undef RFP_ABI_SIZE
#undef RFP_ABI_MEMBER
#undef RFP_ABI_VALUE

#endif
