"""Heartbeats that drive a service: what they say of it on this node."""
