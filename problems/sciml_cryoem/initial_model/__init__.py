"""Ab initio: a start map and poses from images alone."""
