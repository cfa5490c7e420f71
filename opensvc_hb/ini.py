"""INI files with line numbers (bridge until the reader moves here)."""

from opensvc_hb.agent.config import Configuration, Entry, Notice, parse, read

__all__ = ["Configuration", "Entry", "Notice", "parse", "read"]
