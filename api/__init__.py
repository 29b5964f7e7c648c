"""The window: what a peer says about itself, over HTTP."""

from p2p_elastic.api.app import create_app
from p2p_elastic.api.server import ApiServer, bind

__all__ = ["ApiServer", "bind", "create_app"]
