"""`python -m rfp.cli`: for where the command `rfp` is not on the PATH."""

from rfp.cli import main

main(prog_name="rfp")
