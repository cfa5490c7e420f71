"""Applications started by launcher scripts."""
