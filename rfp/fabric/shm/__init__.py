"""The provider over shared memory, with an emulated network if one is asked for."""
