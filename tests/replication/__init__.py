"""Mirrors: frames, their application, catch-up, and crashes of every part."""
