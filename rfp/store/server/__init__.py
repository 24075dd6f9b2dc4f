"""A partition of the store: index, allocator, eviction, operations."""
