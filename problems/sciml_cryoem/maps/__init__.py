"""Maps beside each other: masks, Fourier shell correlation, alignment."""
