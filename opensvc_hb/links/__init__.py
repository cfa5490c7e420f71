"""Heartbeat links: threads that move bytes, and the codecs that give bytes a meaning."""
