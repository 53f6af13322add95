"""Which attempts a call may make, in which order. Pure."""
