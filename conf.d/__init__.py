"""Shipped configuration: defaults, examples, systemd units, logrotate, completion. Data only."""
