"""From a network that says what an image holds to a segmentation, detections and counts of it."""
