"""Pictures: maps and curves, the course of a search, trust."""
