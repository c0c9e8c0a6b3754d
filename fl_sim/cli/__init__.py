"""The command `fl-sim`."""
