"""Is this peer well? A pure function of what the peer says about itself.

    bootstrap_unreachable   initial peers were given, none of them works, and no other peer answers
    no_members              training for a while, initial peers were given, and yet no other live member of the run
    members_drained         the same, and there are some, but every one of them is drained
    schema_differs          peers of the run train another model; with the first difference
    protocol_differs        members speak another version of the wire protocol
    not_admitted            this peer's ticket of a private run has ended, or was revoked
    loss_not_finite         the loss is NaN or infinite
    tensors_not_finite      some tensors of the model are not finite, all else is
    partitioned             several members vanished at once, without a goodbye
    centre_vacant           the centre variable is gone, and nobody took its place
    stalled                 training, but no step for a long time
    drained                 it was asked to exchange no more
    weight_zero             it copies from others and is not copied, with the signals that cause it
    exchanges_failing       the newest exchanges all failed
    network_restarted       the network process died again and again
    checkpoint_failed       the last checkpoint could not be written
    network_failed          the network side ended: this peer trains alone for good

A peer that was given no initial peer founds the run: it may be alone for as long as it likes and is still ok.
"""

from __future__ import annotations

import math

from p2p_elastic.health.causes import FAILURES, advice_on_failures, load_of, names
from p2p_elastic.health.versions import protocols_differ, versions_differ
from p2p_elastic.status.schema import Health, PeerStatus, Reason

LONELY_SECONDS = 30.0
STALLED_SECONDS = 60.0
FAILURES_IN_A_ROW = 5
RESTARTS_MAX = 2


def judge(status: PeerStatus) -> Health:
    """Judge whether a peer is well.

    Args:
        status: all that the peer says about itself.

    Returns:
        ok, or degraded with every reason, each with a sentence that says what to do.
    """
    found = tuple(reason for check in _CHECKS if (reason := check(status)) is not None)
    return Health(status="degraded" if found else "ok", reasons=found)


def why_not_ready(status: PeerStatus) -> Reason | None:
    """Why a peer is not ready: it must train and have an address.

    Args:
        status: all that the peer says about itself.

    Returns:
        The reason; None if it is ready.
    """
    phase = status.training.phase
    if phase not in ("training", "holding", "finishing"):
        return Reason(code="not_training", text=f"the peer is {phase}; it is ready while it trains")
    if not status.network.addresses:
        return Reason(code="no_addresses", text="the peer listens on no address yet; wait, or see its log")
    return None


def _bootstrap_unreachable(status: PeerStatus) -> Reason | None:
    given = status.network.bootstrap
    if status.network.attached or not given or any(one.problem is None for one in given):
        return None
    problems = "; ".join(f"{one.address} ({one.problem})" for one in given)
    advice = "check that they run, that the addresses are right, and that no firewall is between"
    return Reason(code="bootstrap_unreachable", text=f"no initial peer answers: {problems}. {advice}")


def _no_members(status: PeerStatus) -> Reason | None:
    training = status.training.phase in ("training", "holding") and status.uptime_seconds > LONELY_SECONDS
    alive = any(member.state == "alive" and not member.drained for member in status.members)
    if not training or alive or not status.network.bootstrap:
        return None
    if (drained := members_drained(status)) is not None:
        return drained
    text = f"alone: no live member of run {status.run!r}{_lost(status)}"
    return Reason(code="no_members", text=f"{text}; check that the other peers run, and use the same run and task")


def members_drained(status: PeerStatus) -> Reason | None:
    """Report that every live member is drained.

    Args:
        status: all that the peer says about itself.

    Returns:
        The reason; None if there is no live member, or one that may be chosen.
    """
    alive = [member for member in status.members if member.state == "alive"]
    if not alive or not all(member.drained for member in alive):
        return None
    text = f"every live member ({len(alive)}) is drained, so none may be chosen; resume them with POST /v1/resume"
    return Reason(code="members_drained", text=text)


def _lost(status: PeerStatus) -> str:
    """How many members are dead, and since when."""
    dead = [member.heard_seconds for member in status.members if member.state == "dead"]
    since = [seconds for seconds in dead if seconds is not None]
    if not dead:
        return ""
    heard = f", the last one heard {min(since):.0f} s ago" if since else ""
    return f"; {len(dead)} {'is' if len(dead) == 1 else 'are'} dead{heard}"


def _not_admitted(status: PeerStatus) -> Reason | None:
    admission = status.admission
    if admission is None or admission.role != "not admitted":
        return None
    text = "this peer's ticket has ended or was revoked, so no member exchanges with it; ask for a new line (--invite)"
    return Reason(code="not_admitted", text=text)


def _partitioned(status: PeerStatus) -> Reason | None:
    split = status.partition
    if split is None:
        return None
    goes_on = f"with {split.left} other{'s' * (split.left != 1)}" if split.left else "alone"
    together = f"{split.lost} of {split.before} members vanished together {split.seconds:.0f} s ago: they"
    who = f"the only other member vanished {split.seconds:.0f} s ago: it" if split.before == 1 else together
    what = f"{who} crashed, or the network is split. Training goes on {goes_on}"
    text = f"{what}; the halves merge by themselves once they meet again"
    return Reason(code="partitioned", text=text)


def _centre_vacant(status: PeerStatus) -> Reason | None:
    waiting = status.training.phase in ("training", "holding") and status.uptime_seconds > LONELY_SECONDS
    if status.centre is None or status.centre.holder is not None or not waiting:
        return None
    text = "no member holds the centre variable; one takes it over within seconds if at least two members are left"
    return Reason(code="centre_vacant", text=text)


def _schema_differs(status: PeerStatus) -> Reason | None:
    others = sorted(status.other_models, key=lambda other: other.difference is None)
    if not others:
        return None
    what = others[0].difference or "in what is not known yet"
    more = f" ({len(others)} such peers)" if len(others) > 1 else ""
    text = f"{others[0].peer} trains another model in this run{more}: {what}. Install the same model everywhere"
    return Reason(code="schema_differs", text=text)


def _protocol_differs(status: PeerStatus) -> Reason | None:
    text = versions_differ(status)
    if text is None or not protocols_differ(status):
        return None
    return Reason(code="protocol_differs", text=text)


def _loss_not_finite(status: PeerStatus) -> Reason | None:
    loss = status.training.loss
    if loss is None or math.isfinite(loss):
        return None
    text = f"the loss is {loss}; lower the learning rate, or restart this peer so that it copies healthy parameters"
    return Reason(code="loss_not_finite", text=text)


def _tensors_not_finite(status: PeerStatus) -> Reason | None:
    if not status.not_finite:
        return None
    text = (
        f"not finite at this peer: {names(status.not_finite)}. The next partner's take the place, and all else goes "
        "on; keep what is infinite by design out of the exchange"
    )
    return Reason(code="tensors_not_finite", text=text)


def _stalled(status: PeerStatus) -> Reason | None:
    since = status.training.seconds_since_step
    if status.training.phase != "training" or since is None or since <= STALLED_SECONDS:
        return None
    text = f"no step for {since:.0f} s; see whether the data, the device or the training loop hangs"
    return Reason(code="stalled", text=text)


def _drained(status: PeerStatus) -> Reason | None:
    if not status.drained:
        return None
    text = "this peer is drained: it trains, but begins and answers no exchanges; resume it with POST /v1/resume"
    return Reason(code="drained", text=text)


def _weight_zero(status: PeerStatus) -> Reason | None:
    newcomer = any(signal.name == "newcomer" for signal in status.signals)  # for a moment only
    if status.weight > 0.0 or newcomer or status.training.phase not in ("training", "holding"):
        return None
    causes = [f"{one.name}: {one.text or 'health 0'}" for one in status.signals if one.health < 1.0]
    if status.weight_override == 0.0:
        causes = ["its operator set that; DELETE /v1/weight ends it"]
    because = "; ".join(causes) or "it counts again once it is well for a while"
    text = f"this peer counts for 0: it copies from others, and is not copied. {because}"
    return Reason(code="weight_zero", text=text)


def _exchanges_failing(status: PeerStatus) -> Reason | None:
    newest = sorted(status.last_exchanges, key=lambda record: record.age_seconds)[:FAILURES_IN_A_ROW]
    if len(newest) < FAILURES_IN_A_ROW or any(record.outcome not in FAILURES for record in newest):
        return None
    kinds = ", ".join(sorted({record.outcome.value for record in newest}))
    advice = advice_on_failures((record.outcome for record in newest), load_of(status.signals))
    text = f"the last {FAILURES_IN_A_ROW} exchanges failed ({kinds}); {advice}"
    return Reason(code="exchanges_failing", text=text)


def _network_restarted(status: PeerStatus) -> Reason | None:
    restarts = status.network.restarts
    if restarts <= RESTARTS_MAX:
        return None
    text = f"the network process (p2pd) died {restarts} times; see the log, and the memory of this machine"
    return Reason(code="network_restarted", text=text)


def _network_failed(status: PeerStatus) -> Reason | None:
    failure = status.network.failure
    if failure is None:
        return None
    return Reason(code="network_failed", text=f"trains alone for good: {failure}. Stop this peer and start it again")


def _checkpoint_failed(status: PeerStatus) -> Reason | None:
    saved = status.checkpoint
    if saved is None or saved.problem is None:
        return None
    last = "none was written yet" if saved.step is None else f"the last one is of step {saved.step}"
    text = f"no checkpoint could be written ({saved.problem}); {last}. Make room, or see to the disk: it is tried again"
    return Reason(code="checkpoint_failed", text=text)


_CHECKS = (
    _network_failed,
    _bootstrap_unreachable,
    _not_admitted,
    _no_members,
    _partitioned,
    _centre_vacant,
    _schema_differs,
    _protocol_differs,
    _loss_not_finite,
    _tensors_not_finite,
    _stalled,
    _drained,
    _weight_zero,
    _exchanges_failing,
    _network_restarted,
    _checkpoint_failed,
)
