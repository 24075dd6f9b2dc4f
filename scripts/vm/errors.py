"""What can go wrong with a machine, as against with the command in it."""


class MachineError(Exception):
    """The machine cannot be made, does not boot, or ended without the command's exit status."""
