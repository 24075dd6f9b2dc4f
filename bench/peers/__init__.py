"""Other stores to compare with, started for one run: private, on a Unix socket in a temporary
directory, always stopped."""
