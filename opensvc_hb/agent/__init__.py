"""The embedded agent: service configuration, status and actions."""
