"""Why an address does not lead to a peer, in words that help."""

from __future__ import annotations


def explain(address: str, error: str) -> str:
    """Say what went wrong with an address, in words that help.

    Args:
        address: the multiaddr that was dialled, with or without `/p2p/...`.
        error: what libp2p or the system says, on one line or several.

    Returns:
        One sentence, with what to do if that is known; otherwise the line of `error` about this address.

    Example:
        >>> explain("/ip4/192.0.2.1/tcp/4100/p2p/12D3KooW", "dial tcp 192.0.2.1:4100: no route to host")
        'no route to that network from here'
    """
    where = address.split("/p2p/")[0]
    lines = error.splitlines()
    said = next((line for line in lines if f"[{where}]" in line), lines[-1] if lines else error)
    timed_out = "timed out: wrong address, machine off, or a firewall in between"
    if "has no IPv" in said:  # in words that help already
        return said
    known = (
        ("no good addresses", "libp2p finds no address there that it can dial"),
        ("refused", "refused: nothing listens there. Is that peer running, and is the port right?"),
        (
            "peer id mismatch",
            "wrong peer id: another peer answers there. Copy the address anew from that peer's screen",
        ),
        ("timed out", timed_out),
        ("i/o timeout", timed_out),
        ("no route", "no route to that network from here"),
        ("unreachable", "no route to that network from here"),
        ("no such host", "the host name is not known here"),
        ("name or service not known", "the host name is not known here"),
        ("name resolution", "the host name is not known here"),
        ("dial to self", "this peer listens there itself: give another peer's address, or this one another --port"),
    )
    problem = next((words for sign, words in known if sign in said.lower()), None)
    if problem is None:
        return said.strip(" *")
    if where.startswith(("/ip4/127.", "/ip6/::1/")):
        problem = problem if problem.endswith(("?", ".")) else problem + "."
        problem += " A loopback address means this machine itself: for a peer on another machine use its LAN address"
    return problem
