"""Images against a map: search on a grid, continuous poses, defocus, errors of poses."""
