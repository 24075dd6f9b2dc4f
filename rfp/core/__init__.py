"""The base of every layer: the C headers (core.pxd), clocks, forks, the end of the interpreter."""
