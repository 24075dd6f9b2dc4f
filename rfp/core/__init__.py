"""What every layer uses: the C headers, declared in core.pxd, clocks, forks, and the end of the interpreter."""
