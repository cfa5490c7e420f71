"""Resource drivers, one folder per group; a file whose name starts with _ is shared code, not a driver."""
