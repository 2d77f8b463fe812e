"""What is watched while a solve runs: gradient noise, when to switch, and whether gains generalize."""
