"""A deterministic world of nodes and links around the unchanged core."""
