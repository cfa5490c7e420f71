"""File systems, one driver per type."""
