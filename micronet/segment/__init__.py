"""One volume in, results out."""
