"""What a run leaves on disk: its folder, stages, checkpoints, files and provenance."""
