"""Builds the round of a configuration's rule."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from p2p_elastic.errors import ConfigError
from p2p_elastic.protocol.blocks import Seams
from p2p_elastic.protocol.codecs import find_codec
from p2p_elastic.rules.base import ExchangeRule
from p2p_elastic.rules.methods import RULES, Topology
from p2p_elastic.rules.policy import rule_of
from p2p_elastic.simulator.centre import Centre, CentreTogether
from p2p_elastic.simulator.config import SimulationConfig
from p2p_elastic.simulator.judging import Judging
from p2p_elastic.simulator.leader import Leader
from p2p_elastic.simulator.restarting import Accumulated, Everybody
from p2p_elastic.simulator.rounds import Nobody, Pairs, Round
from p2p_elastic.simulator.sending import Wire

LSGD_GLOBAL_PERIODS = 4  # local pulls to one global pull, unless told otherwise


class BuildRound(Protocol):
    """Builds a communication round as `build_round` does, with the same arguments."""

    def __call__(
        self,
        config: SimulationConfig,
        flat: Tensor,
        trainable: int | None = None,
        judging: Judging | None = None,
        *,
        seams: Seams = (),
    ) -> Round: ...


def build_round(
    config: SimulationConfig,
    flat: Tensor,
    trainable: int | None = None,
    judging: Judging | None = None,
    *,
    seams: Seams = (),
) -> Round:
    """Build the round of a configuration's rule.

    Args:
        config: of the simulation.
        flat: [W, D], with which workers begin.
        trainable: the first elements of D that are parameters; the others are BatchNorm's statistics; None: all.
        judging: there if the configuration has dynamic weighting.
        seams: the first elements of the tensors in a row.

    Returns:
        The round.

    Raises:
        ConfigError: if there are more fragments than elements, or the simulator lacks the topology.
    """
    if config.fragment > flat.shape[1]:
        raise ConfigError("fragment", config.fragment, f"at most one per element of the model ({flat.shape[1]})")
    wire = Wire(find_codec(config.codec), config.fragment, seams, seed=config.seed)
    method = RULES[config.rule]
    rule, seed = rule_of(method, config.rate, config.weighting), config.seed
    outer = config.outer_optimizer
    if method.topology is Topology.PAIRS:
        return Pairs(rule, flat, flow=method.flow, partners=config.partners, seed=seed, judging=judging, wire=wire)
    if method.topology is Topology.CENTRE:
        return Centre(rule, flat, seed=seed, judging=judging, wire=wire, outer=outer, trainable=trainable)
    if method.topology is Topology.CENTRE_TOGETHER:
        return CentreTogether(rule, flat, seed=seed, judging=judging, wire=wire, outer=outer, trainable=trainable)
    if method.topology is Topology.EVERYBODY:
        return Everybody()
    if method.topology is Topology.ACCUMULATED:
        average_rate = config.rate if method.moving_rate > 0.0 else None
        return Accumulated(flat, trainable=trainable, average_rate=average_rate, seed=seed)
    if method.topology is Topology.LEADER:
        return _leader(config, rule, flat, judging, wire)
    if method.topology in (Topology.GRADIENTS, Topology.NOBODY):
        return Nobody()
    raise ConfigError("rule", config.rule, f"the simulator does not have the topology {method.topology.value}")


def _leader(config: SimulationConfig, rule: ExchangeRule, flat: Tensor, judging: Judging | None, wire: Wire) -> Leader:
    period = config.schedule.period
    assert period is not None, "lsgd has a period"
    global_period = config.global_period or LSGD_GLOBAL_PERIODS * period
    assert config.global_rate is not None
    global_rule = rule_of(RULES[config.rule], config.global_rate, config.weighting)
    if config.groups == 1 or global_period == period:
        return Leader(global_rule, flat, judging=judging, wire=wire)  # as the authors' code: only the best of all
    return Leader(
        rule,
        flat,
        groups=config.groups,
        global_rule=global_rule,
        global_period=global_period,
        judging=judging,
        wire=wire,
    )
