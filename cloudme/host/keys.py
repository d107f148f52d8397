"""ssh keys, in OpenSSH's formats."""

from __future__ import annotations


class SshKeys:
    """Implements `Keys`."""

    def ed25519(self, comment: str) -> tuple[str, str]:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return private.decode("ascii"), f"{public.decode('ascii')} {comment}".rstrip()
