"""Reading graphs that are quantized already: their groups, their layers, what equalization changed."""
