"""Teaching on the annotated voxels of one volume."""
