"""Registered memory, queue pairs and completions: the contract (fabric.pxd), and the providers of it."""
