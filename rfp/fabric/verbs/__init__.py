"""The RDMA provider of the fabric: the parts of `rfp._verbs`."""
