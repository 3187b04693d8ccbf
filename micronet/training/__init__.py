"""Trainers, recipes, losses, sessions on disk."""
