"""HTTP in and out: connections, lanes, Hypercorn, the Quart app."""
