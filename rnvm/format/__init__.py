"""All that is written to a medium or sent in a message: C headers and their declarations."""
