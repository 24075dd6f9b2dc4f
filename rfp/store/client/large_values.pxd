# Values too large for a slot: fetched by reference, stored piece by piece.

from rfp.protocol.client.channel cimport Channel
from rfp.store.client.client cimport Client, get_call, put_call

# READs the value of get.reference; returns it, or its length if it went to the caller's buffer.
# Sets the call's result; the return value counts only if that is DONE.
cdef object fetch_reference(Client client, Channel owner, get_call *get)
# An attempt of a put whose value does not fit into a slot.
cdef object attempt_upload(Client client, Channel owner, put_call *put)
