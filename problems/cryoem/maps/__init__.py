"""Comparing maps: masks, Fourier shell correlation, alignment."""
