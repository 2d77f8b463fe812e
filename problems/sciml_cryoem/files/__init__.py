"""Files: STAR, MRC, particle sets, and what may be wrong with them."""
