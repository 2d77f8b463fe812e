"""Optimisers, one algorithm a file: first-order rules, line search, quasi-Newton methods."""
