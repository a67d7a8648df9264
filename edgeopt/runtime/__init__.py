"""The device side: open a bundle and predict."""
