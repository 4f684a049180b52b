"""Every database captures alike: what a write leaves in the queue, whoever writes, whatever it is.

Each test makes tables as a stranger would, writes to them over a connection of its own, and reads
what was captured.
"""
