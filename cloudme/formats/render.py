"""The *.j2 files of templates/, filled in. A copy in the configuration's templates/ folder wins."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from cloudme import layout
from cloudme.errors import ConfigError

if TYPE_CHECKING:
    import jinja2


def script(name: str, config: str) -> str:
    """A file of templates/ that has no holes, as it is."""
    with open(layout.text_template(name, config), encoding="utf-8") as file:
        return file.read()


def text(name: str, config: str, /, **values: Any) -> str:
    """Return the template `name` (as 'user-data.j2') filled in.

    config:  the configuration's folder.
    Raises:  ConfigError where the person who edited it left a hole or a mistake.
    """
    import jinja2

    try:
        return _environment(config).get_template(name).render(**values)
    except jinja2.TemplateError as error:
        raise ConfigError(f"the template {name}: {error}") from error


@functools.lru_cache(maxsize=1)
def _environment(config: str) -> jinja2.Environment:
    """It keeps the templates that it has read: five hundred units are made of one.

    With --root the templates are another host's: they may say what is in a unit there, and run nothing here.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader([os.path.join(config, "templates"), layout.text_templates()]),
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
