"""How every command ends: an error that is raised on purpose is a message and an exit code, not a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import click

from p2p_elastic.errors import P2PElasticError


@contextlib.contextmanager
def clean_errors() -> Iterator[None]:
    """Turn errors into exit codes: a P2PElasticError into its own, Ctrl-C into 130, a reader that is gone into 141.

    The message of a P2PElasticError is one line on standard error.

    Yields:
        None.
    """
    try:
        yield
    except P2PElasticError as error:
        click.echo(f"p2p-elastic: error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the output is gone; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
