"""Builds the app: service.app.create_app(settings)."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware

from service.lifecycle import Service
from service.metrics import Metrics
from service.middleware import Middleware
from service.openapi import BareRoute, document
from service.routes import add_routes
from service.settings import Settings


def create_app(settings: Settings, devices: Sequence[Path] = ()) -> FastAPI:
    """Return the app; it loads its bundles when it starts to run. `devices`: see service.lifecycle.Service."""
    metrics = Metrics()
    service = Service(settings, metrics, devices)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = service.loading()
        yield
        await service.stop()
        await loading

    app = FastAPI(
        title="bertheads",
        version=version("bertheads"),
        description="Finetuned BERT heads over HTTP, in the shapes of the Hugging Face Inference API.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    add_routes(app, settings)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    # This replaces FastAPI's own middlewares: ours turns every error into a response.
    tasks = {
        route.path: route.app for route in app.routes if isinstance(route, BareRoute) and route.methods == {"POST"}
    }
    app.state.middleware = Middleware(
        AsyncExitStackMiddleware(app.router), app, settings, metrics, service.traces, tasks
    )
    app.build_middleware_stack = lambda: app.state.middleware  # type: ignore[method-assign]
    return app
