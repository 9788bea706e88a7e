"""The pure core: one step function from inputs to effects; no I/O, clock, randomness or threads."""
