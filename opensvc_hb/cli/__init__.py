"""The commands: hbmgr, svcmgr, svcmon."""
