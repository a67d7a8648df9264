"""How anything is timed: subjects in alternating blocks, the machine's state beside them, and when a run is invalid.

`benchmark` and `gate` stand on it and never on each other.
"""
