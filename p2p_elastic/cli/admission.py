"""The commands that say who may take part in a private run. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from p2p_elastic.cli.errors import clean_errors
from p2p_elastic.protocol.roles import Role

TIMEOUT_SECONDS = 10.0
WHERE = """It asks the peer on this machine at its usual HTTP port, 8870; --url says another one. That has to be the
    founder of the run, or an issuer of it."""
URL = click.Option(["--url"], metavar="URL", help="HTTP address of the peer to ask.  [default: http://127.0.0.1:8870]")
TOKEN = click.Option(
    ["--http-token-file"],
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with its token.  [default: ~/.local/state/p2p-elastic/http-token]",
)
ROLE = click.Option(
    ["--role"],
    type=click.Choice([role.word for role in Role]),
    default="trainer",
    show_default=True,
    help="observer: fetches the model (export); trainer: exchanges, too; centre: may hold the centre variable, too; "
    "issuer: may admit others, too.",
)


def _for(default: str, text: str) -> click.Option:
    return click.Option(["--for", "duration"], default=default, show_default=True, metavar="TIME", help=text)


def _post(path: str, body: dict[str, Any], url: str | None, http_token_file: Path | None, model: Any) -> Any:
    from p2p_elastic.api.token import default_path, load_or_create
    from p2p_elastic.client.control import post
    from p2p_elastic.client.status import DEFAULT_URL, parse_url

    token, _ = load_or_create(http_token_file or default_path())
    return post(parse_url(url or DEFAULT_URL), path, body, token, model, TIMEOUT_SECONDS)


def _seconds(duration: str) -> int:
    from p2p_elastic.common.duration import seconds_of

    return int(seconds_of(duration))


def _invite(role: str, duration: str, url: str | None, http_token_file: Path | None, peer: str | None = None) -> None:
    with clean_errors():
        from p2p_elastic.api.schemas import InviteLine

        body = {"role": role, "seconds": _seconds(duration), "peer": peer}
        click.echo(_post("/v1/invites", body, url, http_token_file, InviteLine).line)


def _revoke(what: str, url: str | None, http_token_file: Path | None) -> None:
    with clean_errors():
        from p2p_elastic.status.schema import AdmissionStatus

        _post("/v1/revocations", {"what": what}, url, http_token_file, AdmissionStatus)
        click.echo(f"revoked {what}; the members hear it within two announcements, 10 s")


def _members(url: str | None, as_json: bool) -> None:
    with clean_errors():
        from p2p_elastic.client.status import DEFAULT_URL, ask, parse_url
        from p2p_elastic.errors import ConfigError, NetworkError
        from p2p_elastic.screens.admission import table

        answer = ask(parse_url(url or DEFAULT_URL), TIMEOUT_SECONDS)
        if answer.status is None:
            raise NetworkError(f"{answer.url}: {answer.problem.text if answer.problem else 'no answer'}")
        if answer.status.admission is None:
            raise ConfigError(
                "admission", "open", "this run is open to everybody: `p2p-elastic status` shows its members"
            )
        if as_json:
            click.echo(answer.status.admission.model_dump_json(indent=2))
        else:
            click.echo(table(answer.status))


invite = click.Command(
    "invite",
    callback=_invite,
    params=[ROLE, _for("24h", "Until when the line can be used, up to 30d."), URL, TOKEN],
    short_help="Let one more peer into a private run.",
    help=f"""Print a line by which one other peer joins the private run of this one.

    Send it to that person only: it is for whoever uses it first. A run is private if it was founded so.

    \b
      p2p-elastic join --admission ticket --task mnist      # here, once
      p2p-elastic invite --role trainer --for 24h           # here, for each other peer
      p2p-elastic join --invite p2p-elastic-invite-1:...    # there

    {WHERE} Once the peer was met, the founder or an issuer renews its ticket as long as it is there: a ticket lives for
    7 days without that.
    """,
)
admit = click.Command(
    "admit",
    callback=_invite,
    params=[
        click.Argument(["peer"], metavar="PEERID"),
        ROLE,
        _for("7d", "How long the ticket lives unless it is renewed, up to 30d."),
        URL,
        TOKEN,
    ],
    short_help="Let a peer whose id is known into a private run.",
    help=f"""Print a line by which the peer of that id joins the private run of this one; nobody else can use it.

    The id of a peer follows from its key file: `p2p-elastic join --identity FILE` prints it at its start.

    \b
      p2p-elastic admit 12D3KooW... --role observer --for 30d
      p2p-elastic export --invite LINE --identity FILE      # there, for 30 days

    {WHERE}
    """,
)
revoke = click.Command(
    "revoke",
    callback=_revoke,
    params=[click.Argument(["what"], metavar="PEERID|SERIAL"), URL, TOKEN],
    short_help="Let a peer take part in a private run no more.",
    help=f"""Revoke the ticket of a peer: within 10 s no member exchanges with it any more, or answers it.

    The founder revokes anybody, an issuer those whom it admitted. Whom an issuer admitted goes with its issuer, unless
    another one renewed the ticket since. `p2p-elastic admit` lets a peer in again.

    {WHERE}
    """,
)
members = click.Command(
    "members",
    callback=_members,
    params=[URL, click.Option(["--json", "as_json"], is_flag=True, help="One JSON document.")],
    short_help="Show who is admitted to a private run.",
    help="""Show who is admitted to the private run of a peer: role, by whom, until when.

    Any member can be asked; it shows the tickets that were shown to it.
    """,
)
