"""Requests and responses in rings of slots (docs/protocol.md).  wire.h defines the format."""
