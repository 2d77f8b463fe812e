"""Particles made from a model, with their flaws."""
