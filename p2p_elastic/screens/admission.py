"""Who is admitted to a private run, as a table for people."""

from __future__ import annotations

from p2p_elastic.screens.units import short
from p2p_elastic.status.schema import PeerStatus


def table(status: PeerStatus) -> str:
    """Show who is admitted.

    Args:
        status: of a peer in a private run.

    Returns:
        Lines: the peer itself first.
    """
    admission = status.admission
    assert admission is not None, "an open run"
    founder = admission.seconds_left is None
    own = ("founder", "") if founder else (f"{admission.role} (this peer)", _until(admission.seconds_left or 0.0))
    rows = [("peer", "role", "by", "ticket ends in", "serial"), (status.peer, own[0], "", own[1], "")]
    rows += [
        (a.peer, a.role, _by(a.by, admission.founder), a.problem or _until(a.seconds_left), a.serial)
        for a in admission.admitted
        if a.peer != status.peer
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if admission.revoked:
        lines.append(f"{admission.revoked} revocations")
    lines += [f"{count} refused: {why}" for why, count in sorted(admission.refused.items())]
    return "\n".join(lines)


def _by(peer: str, founder: str) -> str:
    return "founder" if peer == founder else f"...{short(peer)}"


def _until(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
