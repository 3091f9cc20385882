"""The page "delivery-eta" in Airflow's web interface: the state of the loop, and the drift reports it links to."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from html import escape
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse

from config import get_settings
from plugins.loop_state import Section, loop_state

ROUTE = "/delivery-eta"
SLUG = re.compile(r"\d{8}T\d{2}_\d{8}T\d{2}")
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .6rem; text-align: left; vertical-align: top; }
th { font-weight: 500; width: 40%; }
"""


async def require_login(request: Request) -> None:
    """Let in who is logged in to Airflow: its own pages check this, a plug-in's do not by themselves."""
    from airflow.api_fastapi.core_api.security import get_user

    await get_user(request, None, None)


def create_app(guard: Callable[[Request], Awaitable[None]] = require_login) -> FastAPI:
    """The FastAPI application that Airflow mounts under `ROUTE`; `guard` refuses who is not logged in."""
    app = FastAPI(title="delivery-eta", dependencies=[Depends(guard)], docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/", response_class=HTMLResponse)
    def state(request: Request) -> HTMLResponse:
        # Where Airflow mounted this page: its own address may have a path in front, behind a proxy.
        base = str(request.scope.get("root_path", ""))
        return HTMLResponse(render(loop_state(get_settings()), base))

    @app.get("/reports/{slug}/drift.html", response_class=FileResponse)
    def drift_report(slug: str) -> FileResponse:
        path = get_settings().reports / "monitoring" / slug / "drift.html"
        if not SLUG.fullmatch(slug) or not path.is_file():
            raise HTTPException(404, f"there is no drift report of the window {slug}")
        return FileResponse(path, media_type="text/html")

    return app


def render(sections: list[Section], base: str = "") -> str:
    """The page as HTML; every value is escaped, as order files and alerts may contain anything."""
    body = "".join(_section(section, base) for section in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>delivery-eta</title>'
        f"<style>{STYLE}</style></head><body><h1>delivery-eta: the state of the loop</h1>{body}</body></html>"
    )


def _section(section: Section, base: str) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in section.rows)
    links = "".join(f"<li>{_link(text, address, base)}</li>" for text, address in section.links)
    table = f"<table>{rows}</table>" if rows else ""
    return f"<h2>{escape(section.title)}</h2>{table}" + (f"<ul>{links}</ul>" if links else "")


def _link(text: str, address: str, base: str) -> str:
    if urlsplit(address).scheme not in ("", "http", "https"):
        return escape(text)
    target = address if "://" in address else f"{base}/{address}"
    return f'<a href="{escape(target)}" target="_blank" rel="noopener">{escape(text)}</a>'
