"""Throw-away hosts for tests and for the demo, and the tiny model that they serve."""
