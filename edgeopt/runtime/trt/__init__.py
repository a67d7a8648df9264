"""TensorRT from 8.5 to 11 and TensorRT-RTX, behind capabilities instead of version numbers."""
