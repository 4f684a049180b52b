"""Capture: declarative rules that say which change is which event, compiled to triggers."""
