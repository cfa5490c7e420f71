"""Copies of a service's files on its other nodes."""
