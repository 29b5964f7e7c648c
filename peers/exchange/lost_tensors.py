"""The tensors of a snapshot that are not finite: a partner's take their place, and all else moves by the rule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from p2p_elastic.parameters.slots import Slot
from p2p_elastic.parameters.vector import ParameterVector, Part
from p2p_elastic.protocol.chunks import Places, Received, not_finite
from p2p_elastic.protocol.codecs import seams_within


class LostTensors:
    """Which tensors are not finite. They go out as they are, so that the partner leaves them out.

    Found by the network thread; the training thread heals. `names` may be read from any.

    Args:
        vector: the model.

    Attributes:
        places: of those in what is exchanged now.
    """

    def __init__(self, vector: ParameterVector) -> None:
        self._vector = vector
        self.places: Places = ()
        self._known: Places = ()  # in the whole vector, when last looked at
        self.looked = False  # at this snapshot
        self.doubted = False  # a snapshot that was not looked at first turned out not to be finite

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order of the vector."""
        return names_at(self._vector.slots, self._known)

    def clear(self) -> None:
        """Begin anew: another snapshot is taken."""
        self.places, self.looked = (), False

    def find(self, snapshot: Tensor | None, part: Part | None) -> Places:
        """Look which tensors of a snapshot are not finite.

        Args:
            snapshot: all of the vector, [D], or what is exchanged of it, [part]; None: it is finite.
            part: what is exchanged; None: all.

        Returns:
            Where they are in the whole vector, in the part or not; none if more than half of the numbers are not
            finite.
        """
        self.looked, self.doubted = True, False
        elements = self._vector.elements
        first, last = part or (0, elements)
        whole = (snapshot is None and part is None) or (snapshot is not None and len(snapshot) == elements)
        start, stop = (0, elements) if whole else (first, last)
        found: Places = ()
        if snapshot is not None:  # of a tensor that the part cuts, its piece is exchanged
            seams = seams_within(tuple(sorted({*self._vector.seams, first, last})), start, stop)
            found = tuple((start + a, start + b) for a, b in not_finite(snapshot, seams))
        self.places = tuple((a - first, b - first) for a, b in found if first <= a and b <= last)
        if found or self._known:
            elsewhere = (place for place in self._known if place[1] <= start or stop <= place[0])
            self._known = tuple(sorted({*elsewhere, *found}))
        return found

    def heal(self, places: Places | None) -> None:
        """Note that some are a partner's now.

        Args:
            places: in the whole vector; None: all.
        """
        self._known = () if places is None else tuple(place for place in self._known if place not in places)

    def blank_(self, mine: Tensor) -> None:
        """Set them to 0, so that the difference to a partner's is all of the partner's.

        Args:
            mine: this peer's end of what is exchanged.
        """
        for start, stop in self.places:
            mine[start:stop] = 0.0

    def healed_by(self, received: Received) -> Places:
        """Find those that came finite.

        Args:
            received: what the transfer reported.

        Returns:
            Their places in what is exchanged.
        """
        return tuple(place for place in self.places if place not in received.left_out)

    def leave_out_(self, delta: Tensor, received: Received) -> float:
        """Let tensors that did not come finite not move.

        Args:
            delta: the difference to the partner; changed in place.
            received: what the transfer reported.

        Returns:
            The L2 norm of the difference over what is finite at both ends.
        """
        for start, stop in received.left_out:
            delta[start:stop] = 0.0
        edges = (0, *itertools.chain.from_iterable(self.places), len(delta))
        kept = (delta[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True))
        return math.hypot(*(float(torch.linalg.vector_norm(piece)) for piece in kept))


def names_at(slots: Sequence[Slot], places: Places) -> tuple[str, ...]:
    """Name the tensors at some places of the vector.

    Args:
        slots: of the model.
        places: in the whole vector; a tensor may have several.

    Returns:
        Each name once, in the order of the vector.
    """
    return tuple(s.name for s in slots if any(a < s.stop and s.start < b for a, b in places)) if places else ()
