"""The client's side of a connection: its rings, how it waits, one-sided I/O."""
