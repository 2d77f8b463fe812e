"""How far to trust a map: uncertainty, views, directions, local resolution."""
