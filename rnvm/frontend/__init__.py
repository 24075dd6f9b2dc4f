"""A front-end: its session, logs, cache, locks, transactions, queries; and the base of structures."""
