"""The speed table: the promised speeds, measured beside their peers in the same run.

`rfp-experiments` runs all experiments and prints, per row, the measured value, the peer, their
ratio, the bar, and whether the bar is met.  Each module is one experiment: its QUESTION, and
`measure(setting)`, which returns rows.  The sides of an experiment take turns, and every figure is
the median of the rounds.
"""
