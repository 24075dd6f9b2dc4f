"""A pool: its blocks, logs, replay, recovery; inspection and repair."""
