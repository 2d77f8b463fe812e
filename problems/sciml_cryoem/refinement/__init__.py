"""Gold standard: poses and two half maps, apart from the first iteration."""
