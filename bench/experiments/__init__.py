"""The speed table: what is promised, measured beside its peers in the same run.

`rfp-experiments` runs all and prints, per row, what was measured, the peer, their ratio, the bar, and whether it
is met.  Each module holds one experiment: its QUESTION, and `measure(setting)`, which gives rows.  Sides of an experiment
take turns, and every figure is the median of the rounds.
"""
