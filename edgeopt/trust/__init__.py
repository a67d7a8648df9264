"""Trust: keys, signatures in the OpenSSF model-signing format, and the newest release that a device has seen."""
