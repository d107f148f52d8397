"""Model -> what QEMU is told. Pure."""
