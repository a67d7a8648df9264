"""Refitting one layer: what goes into it, what it gives, and the weights that give it best."""
