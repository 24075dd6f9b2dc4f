"""Tests of groups: the state machine, its simulation, and real groups."""
