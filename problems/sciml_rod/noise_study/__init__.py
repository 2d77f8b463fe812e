"""The comparison of the formulations: gradient variance, descent, and the verdict."""
