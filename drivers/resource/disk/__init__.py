"""Block devices that a service brings up."""
