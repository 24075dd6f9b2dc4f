"""The back-end: a pool, its service, and the locks that front-ends hold."""
