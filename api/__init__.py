"""What a peer says about itself over HTTP, and what may be changed there."""

from p2p_elastic.api.app import create_app
from p2p_elastic.api.server import ApiServer, bind

__all__ = ["ApiServer", "bind", "create_app"]
