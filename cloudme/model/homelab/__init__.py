"""A whole homelab as one file says it: VLANs, defaults, machines. Pure."""
