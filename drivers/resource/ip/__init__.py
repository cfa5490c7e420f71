"""Addresses that move with a service."""
