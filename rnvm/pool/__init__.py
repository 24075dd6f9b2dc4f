"""A pool: its format, logs, replay, recovery; looking at one, and mending it."""
