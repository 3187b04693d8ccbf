"""Overlap, surfaces, topology, vessels, and their tables."""
