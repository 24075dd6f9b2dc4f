"""Checks of a whole pool without a back-end."""
