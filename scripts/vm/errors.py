"""Errors of a machine, as opposed to errors of the command in it."""


class MachineError(Exception):
    """The machine cannot be made, does not boot, or ended without the command's exit status."""
