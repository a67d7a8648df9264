"""Other quantizers beside edgeopt: the same float graph, calibration images, test images and engine."""
