"""Data sets, augmentation, raw scans, phantoms."""
