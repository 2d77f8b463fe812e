"""The `sciml` command and the commands that come with the core."""
