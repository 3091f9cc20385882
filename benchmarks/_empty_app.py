"""An endpoint that does nothing: what HTTP, uvicorn and FastAPI cost by themselves."""

from __future__ import annotations

from fastapi import FastAPI

app = FastAPI()


@app.post("/predict")
async def predict() -> dict[str, str]:
    """Answer without reading the body."""
    return {}


@app.get("/ready")
async def ready() -> dict[str, str]:
    """Say that the server has started."""
    return {}
