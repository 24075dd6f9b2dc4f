"""`python -m rfp.cli`: for use if the command `rfp` is not on the PATH."""

from rfp.cli import main

main(prog_name="rfp")
