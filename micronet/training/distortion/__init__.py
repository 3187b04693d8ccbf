"""Distortion of masks: the training input of a µr-Net."""
