"""Groups: a primary and its mirrors, and the coordinator's state that says which is which."""
