"""Measure: time subjects in alternating blocks, record the machine's state beside them, and know when a run is invalid.

`benchmark` and `gate` stand on it and never on each other.
"""
