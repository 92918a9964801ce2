"""The command line: what each command does, in rooms of what belongs together."""
