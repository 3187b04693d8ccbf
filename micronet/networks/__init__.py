"""Networks, their weights and cards, and the engine that computes them."""
