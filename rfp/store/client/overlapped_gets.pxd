# GETs of several keys whose requests overlap: IN_FLIGHT_MAX of them are under way, over all
# workers, and their responses are taken in the order of the requests.
#
# A kind of call derives a class, which posts a request and finishes a response.

from libc.stdint cimport uint32_t, uint64_t
from rfp.protocol.client.channel cimport Channel
from rfp.protocol.client.client_base cimport ClientBase, client_call
from rfp.protocol.client.client_ring cimport RAISED, outcome
from rfp.store.client.client cimport Client, key_call

cdef enum:
    IN_FLIGHT_MAX = 8

cdef struct flight:                  # a request under way
    uint32_t worker
    uint64_t now_ns                  # before it was posted: its lease counts from here

cdef struct gets_call:
    client_call c
    void *gets                       # OverlappedGets; the caller of run() keeps a reference

cdef class OverlappedGets:
    cdef list names
    cdef list positions              # of the keys to request
    cdef list results
    cdef list again                  # positions whose request must be made again, alone
    cdef Py_ssize_t done             # of `positions`: their responses were taken
    cdef flight flights[IN_FLIGHT_MAX]   # of position i: i % IN_FLIGHT_MAX
    # Called at the beginning of each attempt; may set c.result.
    cdef int prepare(self, Client client, Channel owner, client_call *c) except -1
    # Writes a request into c.ring; False: no slot is free.
    cdef bint post(self, Channel owner, client_call *c, key_call *k, uint64_t tag) except -1
    # Takes the response of request i, pops it, and stores the result.  RETRY: request it alone.
    cdef outcome finish(self, Client client, Channel owner, client_call *c,
                        Py_ssize_t i) except RAISED
    # Describes request i as a call of its own.
    cdef int describe(self, Channel owner, client_call *c, Py_ssize_t i, key_call *k) except -1
    cdef int set_key(self, key_call *k, Py_ssize_t i) except -1
    cdef outcome submit(self, Channel owner, client_call *c, Py_ssize_t i) except RAISED
    cdef outcome take(self, Client client, Channel owner, client_call *c,
                      Py_ssize_t i) except RAISED

# For prepare_call().
cdef object attempt_gets(ClientBase base, Channel owner, client_call *c)
