"""Text and JSON <-> model. Pure."""
