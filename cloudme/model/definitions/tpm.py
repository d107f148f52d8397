"""A machine's TPM: swtpm, a program beside QEMU, and what it is told (swtpm(8), swtpm_setup(8))."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cloudme.model.definitions.nouns import Merged, swtpm_socket

SETUP = ("--tpm2", "--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--not-overwrite")
"""A TPM is made once, as a factory does: with keys of its own, and certificates for them."""


@dataclass(frozen=True, slots=True)
class Tpm:
    """folder: where all of it is kept, its user's own; `state` in it is the TPM, as the seed has it, and `config` the
    authority that signed its certificates. socket: by which QEMU talks to it.
    """

    folder: str
    socket: str

    @property
    def setup(self) -> list[list[str]]:
        """The commands that make a TPM where there is none. They write to their user's folder and to /tmp."""
        state, config = (os.path.join(self.folder, name) for name in ("state", "config"))
        return [["mkdir", "-p", "-m", "700", state, config],
                ["env", f"XDG_CONFIG_HOME={config}", "swtpm_setup", "--create-config-files", "overwrite"],
                ["swtpm_setup", *SETUP, "--tpmstate", state, "--config", os.path.join(config, "swtpm_setup.conf")]]

    @property
    def daemon(self) -> list[str]:
        """swtpm in the background, which listens when the command ends.

        It serves one QEMU after another, and ends when one says that it shuts down.
        """
        return [*self._swtpm, "--ctrl", f"type=unixio,path={self.socket},mode=0600", "--daemon"]

    def inheriting(self, listener: int) -> list[str]:
        """swtpm on a socket that it inherits; it ends with the first QEMU that connects."""
        return [*self._swtpm, "--ctrl", f"type=unixio,fd={listener}", "--terminate"]

    @property
    def _swtpm(self) -> list[str]:
        return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={os.path.join(self.folder, 'state')}",
                "--log", f"file={os.path.join(self.folder, 'log')},level=1,truncate"]


def of(machine: Merged, run: str) -> Tpm | None:
    """None where it has none, or somebody else serves it (attrs.tpm.socket.path). run: of the machines' sockets."""
    attributes = machine.attributes
    if not attributes.tpm or attributes.tpm_socket or not attributes.tpm_data:
        return None
    return Tpm(attributes.tpm_data.path, swtpm_socket(run, machine.name))


class Companions(Protocol):
    """What runs beside a QEMU that no unit starts."""

    def tpm(self, tpm: Tpm, uid: int) -> AbstractContextManager[None]:
        """A machine's TPM, made where there is none yet, listens within; it ends with its QEMU, at the latest after.

        uid:     whom the machine's processes run as, and whose `tpm.folder` is. We, where we may not become him.
        Raises:  MissingProgram, CommandFailed with what swtpm says.
        """
