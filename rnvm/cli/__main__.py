"""`python -m rnvm.cli`, for hosts where the command `rnvm` is not on the PATH."""

from rnvm.cli import main

main(prog_name="rnvm")
