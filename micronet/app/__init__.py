"""The terminal and napari: what a person touches."""
