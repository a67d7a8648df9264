"""What produced the figures: each script reruns one of them."""
