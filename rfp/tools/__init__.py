"""Tools: `rfp tune` and `rfp doctor`."""
