"""The `unipt` command: parses, calls, prints."""
