"""What is wrong with the files that a homelab's names, as far as YAML tells: more is Ansible's and cloud-init's."""

from __future__ import annotations

import contextlib
from typing import Any

from cloudme.errors import SpecError
from cloudme.formats import documents, seeds, yamlnodes
from cloudme.formats.documents import Mistake, SyntaxErrors

VAULT = b"$ANSIBLE_VAULT"
"""How a file begins that ansible-vault has encrypted."""


def playbook(content: bytes, path: str) -> str:
    """Why this is no list of plays, as 'path:line:column: what'; '' where it may be one, or nobody can tell.

    Tags are Ansible's business, as !vault and !unsafe are.
    """
    if content.startswith(VAULT) or len(content) > documents.SIZE:
        return ""
    try:
        _check_plays(documents.parsed(documents.decoded(content), _composed))
    except SyntaxErrors as error:
        return _told(path, error)
    return ""


def user_data(text: str, path: str) -> str:
    """Likewise why this is no user-data of cloud-init; but for #cloud-config only its beginning tells."""
    try:
        if seeds.kind(text, path) == "cloud-config":
            root = documents.parsed(text, yamlnodes.composed)
            if root is not None and root.id != "mapping":
                raise SyntaxErrors(_mistake(root, "after #cloud-config an object is wanted, as {packages: [git]}"))
    except SpecError as error:
        return f"{error.message}: {error.hint}"
    except SyntaxErrors as error:
        return _told(path, error)
    return ""


def _composed(text: str) -> Any:
    """As Ansible has it: libyaml, where it is there, takes tabs that PyYAML's own parser does not."""
    import yaml

    try:
        return yamlnodes.composed(text)
    except SyntaxErrors:
        with contextlib.suppress(yaml.YAMLError, AttributeError):
            return yaml.compose(text, Loader=yaml.CSafeLoader)
        raise


def _check_plays(root: Any) -> None:
    if root is None:
        raise SyntaxErrors(Mistake("it is empty, and no playbook"))
    if root.id != "sequence":
        raise SyntaxErrors(_mistake(root, "a playbook is a list of plays"))
    if wrong := [_mistake(play, "a play is an object, as {hosts: all}") for play in root.value if play.id != "mapping"]:
        raise SyntaxErrors(*wrong)


def _mistake(node: Any, what: str) -> Mistake:
    return Mistake(what, node.start_mark.line + 1, node.start_mark.column + 1)


def _told(path: str, error: SyntaxErrors) -> str:
    """The first of them: they are told in one line."""
    wrong = error.mistakes[0]
    return ":".join([path, *(str(number) for number in (wrong.line, wrong.column) if number)]) + f": {wrong.what}"
