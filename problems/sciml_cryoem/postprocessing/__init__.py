"""Half maps to a mask, a corrected FSC, a sharpened map, a deposition."""
