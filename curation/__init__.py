"""Observes and shapes: knows the network and the pixels, decides nothing."""
