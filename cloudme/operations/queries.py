"""What machines that run say about themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloudme import monitors
from cloudme.errors import CloudMeError, PeerError
from cloudme.model.ports import Host
from cloudme.monitors import Speaker
from cloudme.qemu import answers


def ask(host: Host, what: str, speakers: Sequence[Speaker]) -> list[answers.Answers | CloudMeError]:
    """From all at once, QEMU's answers to the questions of `what` (answers.QUESTIONS); or what went wrong."""
    def one(speaker: Speaker) -> answers.Answers:
        found: dict[str, Any] = {}
        with monitors.monitor(host, speaker) as monitor:
            for question in answers.QUESTIONS[what]:
                try:
                    found[question] = monitor.execute(question)
                except PeerError:
                    if question not in answers.REFUSABLE:
                        raise
                    found[question] = None
        return found

    return monitors.each(speakers, one)
