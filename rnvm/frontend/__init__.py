"""A front-end: session, logs, cache, locks, transactions, queries; and the base of structures."""
