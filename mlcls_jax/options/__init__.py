"""The options of the commands, in light modules: a command that is refused answers at once."""
