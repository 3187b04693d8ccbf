"""From a yes or no for each block of a volume to sparse labels of its voxels."""
