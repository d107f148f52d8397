"""Merged machines -> what QEMU is told, as the seed tells it (docs/design/0020-definitions.md). Pure."""
