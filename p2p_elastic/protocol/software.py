"""What a member runs, told among the multiaddrs of its record: `/p2p-elastic/0.1.0/protocol/3`.

Peers leave what they cannot dial out, earlier versions too; a field of its own they would refuse, and the record with
it. Pure functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from pydantic import Field

from p2p_elastic import __version__
from p2p_elastic.protocol.messages import PROTOCOL_VERSION
from p2p_elastic.values import Frozen

VERSION_CHARACTERS_MAX = 40
BEGIN = "/p2p-elastic/"
TOLD = re.compile(BEGIN + r"([^/]*)/protocol/([1-9][0-9]{0,2}|1000)")


class Software(Frozen):
    """What a peer runs.

    Attributes:
        version: of p2p-elastic, as the peer says.
        protocol: version of the wire protocol.
    """

    version: Annotated[str, Field(pattern=rf"^[0-9A-Za-z][0-9A-Za-z.+!_-]{{0,{VERSION_CHARACTERS_MAX - 1}}}$")]
    protocol: Annotated[int, Field(ge=1, le=1000)]

    @property
    def told(self) -> str:
        """As it is told among the addresses of a record."""
        return f"{BEGIN}{self.version}/protocol/{self.protocol}"


OURS = Software(version=__version__[:VERSION_CHARACTERS_MAX], protocol=PROTOCOL_VERSION)


def is_software(text: str) -> bool:
    """Whether a multiaddr says what a peer runs, so nothing to dial.

    Args:
        text: the multiaddr, from anybody.

    Returns:
        True if it begins as one.
    """
    return text.startswith(BEGIN)


def read_software(addresses: Iterable[str]) -> Software | None:
    """Find what a member says it runs.

    Args:
        addresses: of its record, from anybody.

    Returns:
        The first that can be read; None if there is none, as of earlier versions.

    Example:
        >>> read_software(["/ip4/192.0.2.1/tcp/1", "/p2p-elastic/0.1.0/protocol/3"])
        Software(version='0.1.0', protocol=3)
    """
    return _first(tuple(addresses))


@lru_cache(maxsize=1024)  # of all members, at each look
def _first(addresses: tuple[str, ...]) -> Software | None:
    return next(filter(None, map(_read, filter(is_software, addresses))), None)


def _read(address: str) -> Software | None:
    match = TOLD.fullmatch(address)
    try:
        return None if match is None else Software(version=match[1], protocol=int(match[2]))
    except ValueError:
        return None
