"""Fakes of the engine's ports. They implement a port and record; none patches our own code."""
