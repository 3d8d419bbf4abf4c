"""`mfal serve`: the report in a browser while the campaign runs.

The page is that of `mfal report`, with a panel above it that follows the round under way. Loopback is not private on a
machine that others use, too, so nothing is given out but below a secret that is new each time (as Jupyter does it).
"""

from __future__ import annotations

import functools
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from flows.opened import opened
from flows.refuse import refuse, refusing
from mfal.config import Campaign
from mfal.config_file import load
from stores.campaign import CampaignStores

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK = "127.0.0.1"
#: Seconds between two looks at the store.
PAUSE = 2.0
#: Seconds of silence after which a comment keeps proxies from closing the connection.
SILENCE = 20.0
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def serve(
    config: Annotated[Path, typer.Argument(help="The campaign file.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="Address to listen at. Any but loopback shows the campaign to the network.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(help="0: any that is free.", min=0, max=65535)] = 8765,
) -> None:
    """Show the report in a browser, live: it follows the round under way, and says when a new report is there.

    It only reads the store, so it can be started and stopped at any time, beside 'mfal run' or 'mfal watch'. On a
    cluster, tunnel the port: ssh -L 8765:localhost:8765 LOGIN-NODE. Control-C ends it.
    """
    with refusing():
        campaign = load(config)
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        refuse(f"--host {host} --port {port}: cannot be listened at ({error.strerror}): give another, or --port 0")
    console, secret = Console(highlight=False), secrets.token_urlsafe(16)
    with listening, opened(campaign) as stores:
        import uvicorn  # late: only this command needs it

        address = f"http://{'localhost' if host == LOOPBACK else host}:{listening.getsockname()[1]}/{secret}/"
        console.print(f"Report of {escape(campaign.campaign)}: {address}", soft_wrap=True)
        if host != LOOPBACK:
            console.print("[yellow]Whoever has this address and can reach the machine sees the campaign[/]")
        settings = uvicorn.Config(
            application(stores, campaign, secret, host), log_level="error", timeout_graceful_shutdown=1
        )
        uvicorn.Server(settings).run([listening])


def application(stores: CampaignStores, campaign: Campaign, secret: str, host: str = LOOPBACK) -> Starlette:
    """The pages below `/SECRET/`: the last report, `round/N`, `numbers/N`, and `events`, which follow the campaign."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
    from starlette.routing import Mount, Route

    from flows.report import gathered, uncollected
    from flows.standing import standing
    from mfal.report.page import Report, render, waiting

    @functools.lru_cache(maxsize=4)
    @uncollected()
    def report(round: int, _finished_at: str) -> Report:
        return render(gathered(stores, campaign, round), live=True)

    def finished() -> dict[int, str]:
        return {summary.round: summary.finished_at for summary in stores.all_rounds(campaign.campaign)}

    def asked(request: Request) -> Report:
        round, done = request.path_params["round"], finished()
        if round not in done:
            raise HTTPException(404, f"round {round} is not finished")
        return report(round, done[round])

    def home(_: Request) -> Response:
        if done := finished():
            return RedirectResponse(f"round/{max(done)}", headers=HEADERS)
        return HTMLResponse(waiting(campaign.campaign), headers=HEADERS)

    def page(request: Request) -> Response:
        return HTMLResponse(asked(request).html, headers=HEADERS)

    def numbers(request: Request) -> Response:
        return JSONResponse(asked(request).numbers, headers=HEADERS)

    async def events(request: Request) -> Response:
        return StreamingResponse(follow(request), media_type="text/event-stream", headers=HEADERS)

    async def follow(request: Request) -> AsyncIterator[str]:
        """Where the campaign stands, each time that this changes."""
        import anyio

        told, silent, plans = "", 0.0, dict[str, int]()
        while not await request.is_disconnected():
            found = (await run_in_threadpool(standing, stores, campaign.campaign, plans)).model_dump_json()
            silent += PAUSE
            if found != told:
                told, silent = found, 0.0
                yield f"data: {found}\n\n"
            elif silent >= SILENCE:
                silent = 0.0
                yield ": still here\n\n"
            await anyio.sleep(PAUSE)

    routes = [
        Route("/", home),
        Route("/round/{round:int}", page),
        Route("/numbers/{round:int}", numbers),
        Route("/events", events),
    ]
    # A name that resolves to this machine is not enough, or any page in the browser could read this one.
    hosts = ["*"] if host != LOOPBACK else ["localhost", LOOPBACK]
    return Starlette(
        routes=[Mount(f"/{secret}", routes=routes)],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
    )
