"""The server's side of the protocol: rings, workers, client connections and the control thread."""
