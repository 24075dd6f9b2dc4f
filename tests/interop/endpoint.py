"""Debian's pyverbs as far as the client needs it.

It provides registered memory and one end of a reliable connection.  The descriptors that the two
sides exchange, and the form of a notification, are as docs/protocol.md describes them.
"""

import random
import struct
import time

import pyverbs.enums as e
from checksum import crc32c
from pyverbs.addr import GID, AHAttr, GlobalRoute
from pyverbs.cq import CQ
from pyverbs.device import Context, get_device_list
from pyverbs.mr import MR
from pyverbs.pd import PD
from pyverbs.qp import QP, QPAttr, QPCap, QPInitAttr
from pyverbs.wr import SGE, RecvWR, SendWR

# magic, version, provider, length, rights, key, address, reserved; then the CRC
REGION = struct.Struct("<4sHHQIIQI")
# ..., number, sequence, GID, LID, MTU, link, reads in, reads out, unused, reserved
PAIR = struct.Struct("<4sHHII16sHBBBBHI")
VERSION, VERBS = 1, 2
REMOTE_READ, REMOTE_WRITE = 1, 2
RECEIVES = 16


def packed(structure, *fields):
    body = structure.pack(*fields)
    return body + struct.pack("<I", crc32c(body))


def unpacked(structure, magic, data):
    body, (crc,) = data[:-4], struct.unpack("<I", data[-4:])
    fields = structure.unpack(body)
    assert fields[:3] == (magic, VERSION, VERBS) and crc == crc32c(body), data
    return fields[3:]


class Remote:
    """The peer's memory."""

    def __init__(self, descriptor):
        self.length, self.rights, self.key, self.address, _ = unpacked(REGION, b"RFPM", descriptor)


class Device:
    """The device that has the address from which this client reaches the server."""

    def __init__(self, address):
        wanted = "0000:0000:0000:0000:0000:ffff:" + bytes(map(int, address.split("."))).hex(":", 2)
        for entry in get_device_list():
            self.context = Context(name=entry.name.decode())
            self.port = self.context.query_port(1)
            for index in range(self.port.gid_tbl_len):
                self.gid, self.index = self.context.query_gid(1, index), index
                if str(self.gid) == wanted:
                    self.pd = PD(self.context)
                    return
        raise SystemExit(f"no RDMA device has the address {address}")


class Memory:
    """Registered memory of this client."""

    def __init__(self, device, length, rights=0):
        access = e.IBV_ACCESS_LOCAL_WRITE | (
            e.IBV_ACCESS_REMOTE_WRITE if rights & REMOTE_WRITE else 0
        )
        self.mr = MR(device.pd, length, access)
        self.mr.write(bytes(length), length)
        self.descriptor = packed(
            REGION, b"RFPM", VERSION, VERBS, length, rights, self.mr.rkey, self.mr.buf, 0
        )

    def read(self, offset, length):
        return self.mr.read(length, offset)

    def write(self, offset, data):
        self.mr.write(data, len(data), offset)


class Pair:
    """One end of a connection."""

    def __init__(self, device):
        self.device = device
        self.sent, self.received = CQ(device.context, 8), CQ(device.context, RECEIVES)
        cap = QPCap(max_send_wr=8, max_recv_wr=RECEIVES)
        init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.sent, rcq=self.received, cap=cap)
        state = QPAttr(port_num=1)
        state.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
        self.qp = QP(device.pd, init, state)  # in INIT
        self.sequence = random.getrandbits(24)
        self.nothing = Memory(device, 8)
        for _ in range(RECEIVES):
            self.expect()
        gid = bytes.fromhex(str(device.gid).replace(":", ""))
        self.descriptor = packed(
            PAIR,
            b"RFPQ",
            VERSION,
            VERBS,
            self.qp.qp_num,
            self.sequence,
            gid,
            device.port.lid,
            device.port.active_mtu,
            2,
            16,
            16,
            0,
            0,
        )

    def connect(self, descriptor):
        number, sequence, gid, _lid, mtu, _link, _reads_in, _reads_out, *_ = unpacked(
            PAIR, b"RFPQ", descriptor
        )
        a = QPAttr(port_num=1)
        a.qp_access_flags = e.IBV_ACCESS_REMOTE_WRITE
        a.dest_qp_num, a.rq_psn, a.sq_psn = number, sequence, self.sequence
        a.path_mtu = min(mtu, self.device.port.active_mtu)
        a.max_rd_atomic = a.max_dest_rd_atomic = 1
        a.min_rnr_timer, a.timeout, a.retry_cnt, a.rnr_retry = 12, 16, 6, 7
        text = ":".join(gid[i : i + 2].hex() for i in range(0, 16, 2))
        route = GlobalRoute(dgid=GID(text), sgid_index=self.device.index, hop_limit=64)
        a.ah_attr = AHAttr(gr=route, is_global=1, port_num=1)
        self.qp.to_rtr(a)
        self.qp.to_rts(a)

    def expect(self):
        """Post a receive for a notification.

        A notification brings no data, but pyverbs posts no receive without a place for data.
        """
        self.qp.post_recv(RecvWR(num_sge=1, sg=[SGE(self.nothing.mr.buf, 8, self.nothing.mr.lkey)]))

    def write(self, memory, offset, remote, place, length, notify=False):
        opcode = e.IBV_WR_RDMA_WRITE_WITH_IMM if notify else e.IBV_WR_RDMA_WRITE
        self._do(
            opcode, e.IBV_SEND_SOLICITED if notify else 0, memory, offset, remote, place, length
        )

    def read(self, memory, offset, remote, place, length):
        self._do(e.IBV_WR_RDMA_READ, 0, memory, offset, remote, place, length)

    def _do(self, opcode, flags, memory, offset, remote, place, length):
        sg = [SGE(memory.mr.buf + offset, length, memory.mr.lkey)]
        work = SendWR(
            wr_id=1, opcode=opcode, num_sge=1, sg=sg, send_flags=flags | e.IBV_SEND_SIGNALED
        )
        work.set_wr_rdma(remote.key, remote.address + place)
        self.qp.post_send(work)
        done = self._wait(self.sent)
        if done.status:
            raise RuntimeError(f"the device has failed: status {done.status}")

    def notified(self):
        """Wait for the peer's next notification."""
        self._wait(self.received)
        self.expect()

    def _wait(self, queue, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            count, completions = queue.poll(1)
            if count:
                return completions[0]
        raise TimeoutError("no completion from the device within the time limit")
