"""The names of a partition's counters, in the order of enum kv_counter (messages.h)."""

COUNTERS = (
    "gets",
    "hits",
    "misses",
    "puts",
    "deletes",
    "incrs",
    "touches",
    "evictions",
    "expirations",
    "refused",
    "records",
    "bytes_used",
    "bytes_total",
    "index_bytes",
    "pins",
    "uploads",
    "bytes_reserved",
    "value_bytes",
    "unknown_pins",
)
