"""Handlers of real external systems: each brings one system to the state that the billing wants."""
