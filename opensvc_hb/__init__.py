"""High availability for OpenSVC services, inside the agent."""

__version__ = "0.1.0"
