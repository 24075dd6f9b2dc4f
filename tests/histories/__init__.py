"""Histories of calls that several processes record, and a checker that searches for one order."""
