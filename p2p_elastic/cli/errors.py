"""How every command ends: what we raise on purpose is a message and an exit code, not a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import click

from p2p_elastic.errors import P2PElasticError


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """A P2PElasticError is one line and its exit code; Ctrl-C is 130; a reader of our output that is gone is 141."""
    try:
        yield
    except P2PElasticError as error:
        click.echo(f"p2p-elastic: error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output is gone; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
