"""The command `sciml`, and the subcommands that come with the core."""
