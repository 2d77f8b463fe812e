"""How a particle becomes an image: rotations, projection, CTF, symmetry; where all FFTs are."""
