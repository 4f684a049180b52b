"""The steps, in one line: each names the one before it."""
