"""The shared-memory provider of the fabric, optionally with an emulated network."""
