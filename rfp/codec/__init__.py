"""Forms in which objects of other libraries are stored; each module needs its library."""
