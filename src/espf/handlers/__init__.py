"""The plug-in contract, the built-in handler types, and their roads to the outside world."""
