"""The provider over RDMA devices: the parts of `rfp._verbs`."""
