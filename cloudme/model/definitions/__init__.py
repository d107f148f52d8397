"""Machines as configuration: definitions, what a host offers to them, and what the two give together. Pure."""
