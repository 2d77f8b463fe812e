"""A map from images with known poses: noise, Fourier sums, prior; directly, or by watched descent."""
