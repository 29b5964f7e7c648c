"""Every error that p2p-elastic raises.

P2PElasticError
  ConfigError              what the user asked for is not possible: which key, what it got, what is allowed
  ExchangeError            one exchange failed; training goes on; `.partner` says with whom
    PartnerUnreachable     no stream to the partner could be opened
    ExchangeTimeout        the partner made no progress for the deadline
    SchemaMismatch         the partner trains another model
    LocalProtocolError     a bug of this program: a message that must not be sent now
    RemoteProtocolError    a fault of the partner: a message that must not come now, or is malformed
  DirectoryError           the DHT cannot be reached or refused a record
    NotAdmitted            a private run does not let a peer in
  IdentityInUse            a process that began earlier has the same identity; this one ends, with exit code 3
  NetworkError             the libp2p side cannot run on this machine, or keeps dying
"""

from __future__ import annotations


class P2PElasticError(Exception):
    """The root: `except P2PElasticError` catches all that this package raises on purpose."""

    exit_code = 2  # of a command that ends with this error


class ConfigError(P2PElasticError):
    """What was asked for is not possible.

    Args:
        key: the option or field, as the user spells it.
        got: the value that was given.
        allowed: what may be given instead, in words.

    Example:
        >>> str(ConfigError("period", 0, "a whole number of steps, 1 or more"))
        'period: got 0; a whole number of steps, 1 or more'
    """

    def __init__(self, key: str, got: object, allowed: str) -> None:
        self.key, self.got, self.allowed = key, got, allowed
        super().__init__(f"{key}: got {got!r}; {allowed}")


class ExchangeError(P2PElasticError):
    """One exchange failed. Training goes on.

    Args:
        message: what went wrong, in words.
        partner: peer id of the other end; None if it is not known, or if no partner was involved.
    """

    def __init__(self, message: str, *, partner: str | None = None) -> None:
        self.partner = partner
        super().__init__(message)


class PartnerUnreachable(ExchangeError):
    """No stream to the partner could be opened, or the stream broke."""


class ExchangeTimeout(ExchangeError):
    """The partner made no progress before the deadline."""


class SchemaMismatch(ExchangeError):
    """The partner's model has other names or shapes."""


class LocalProtocolError(ExchangeError):
    """This peer tried to do what the protocol does not allow: a bug of this program."""


class RemoteProtocolError(ExchangeError):
    """The partner did what the protocol does not allow."""


class DirectoryError(P2PElasticError):
    """The directory of peers cannot be reached or refused a record."""


class NotAdmitted(DirectoryError):
    """A private run does not let a peer in: it shows no ticket, or one that does not count."""


class IdentityInUse(P2PElasticError):
    """Another process with the same identity began earlier and is alive."""

    exit_code = 3


class NetworkError(P2PElasticError):
    """The network side cannot run on this machine."""
