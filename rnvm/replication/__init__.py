"""Mirrors of a pool: frames, their stream, and their application."""
