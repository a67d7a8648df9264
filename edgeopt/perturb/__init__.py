"""Perturb: small changes of a network's pictures that raise a loss, for attacks and for training against them."""
