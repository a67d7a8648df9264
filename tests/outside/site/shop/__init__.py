"""A user's package: one of everything that can be added to edgeopt from outside."""
