"""Several backends that hold the same: what is written is in as many of them as is asked for, and any may be away."""
