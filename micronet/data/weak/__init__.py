"""Data sets of a yes or no: which classes each image, crop or block holds."""
