"""Media that keep a pool: persistent memory, files with a write-ahead log, volatile memory."""
