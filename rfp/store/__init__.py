"""The key-value store.  layout.h defines a partition's memory, messages.h the messages."""
