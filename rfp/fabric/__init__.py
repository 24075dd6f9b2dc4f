"""The fabric: registered memory, queue pairs and completions (fabric.pxd), and its providers."""
