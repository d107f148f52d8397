"""The catalogue: images that others publish, by name."""

from __future__ import annotations

from dataclasses import dataclass

from cloudme.model.names import ImageName

INLINE = "inline"
"""The signature of a checksum file that is itself clear-signed (RFC 9580, 7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where an image is, and who vouches for it.

    url: of the disk. checksums: the URL of a file that has its digest. signature: the URL of a detached signature, or
    INLINE, or ''. keyring: a file of this host with the keys that may sign, armored or not. user: whom its cloud-init
    lets in. alias: the entry that this one is another name of, or ''.
    """

    name: ImageName
    url: str
    checksums: str
    user: str = "root"
    description: str = ""
    signature: str = ""
    keyring: str = ""
    alias: str = ""

    @property
    def seals_image(self) -> bool:
        """Whether the signature is one of the image, as its URL, the image's and one suffix more, says."""
        return self.signature.rpartition(".")[0] == self.url

    @property
    def own_checksums(self) -> bool:
        """Whether the checksum file is of this image alone, as its URL, the image's and one suffix more, says."""
        return self.checksums.rpartition(".")[0] == self.url
