"""The key-value store: the layout of a partition in memory (layout.h) and the messages (messages.h)."""
