"""Drivers of containers."""
