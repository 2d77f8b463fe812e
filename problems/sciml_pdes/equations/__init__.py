"""The equations, one short file each, with its reference."""
