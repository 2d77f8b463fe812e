"""What a person sees of a run: progress, figures of the optimization, and the report."""
