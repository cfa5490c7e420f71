"""Resource drivers by path: resource/<group>/<type>.py; installed as `opensvc_hb.drivers`."""
