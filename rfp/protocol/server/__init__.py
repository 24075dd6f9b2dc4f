"""The server's side of a connection: its rings, the workers, what each client may use."""
