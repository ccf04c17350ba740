"""Builds the app, and nothing else: service.app.create_app(settings)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from models.errors import InputError
from service.dispatch import Dispatch
from service.errors import ServiceError
from service.gate import Gate
from service.lifecycle import Service
from service.metrics import Metrics
from service.problems import answer_http_error, answer_input_error, answer_service_error
from service.routes import add_routes, document
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """Return the app; its bundles load once it runs."""
    metrics = Metrics()
    service = Service(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = service.loading()
        yield
        await service.stop()
        await loading

    app = FastAPI(
        title="bertheads",
        version="0.1.0",
        description="Finetuned BERT heads over HTTP, in the shapes of the Hugging Face Inference API.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_exception_handler(ServiceError, answer_service_error)
    app.add_exception_handler(InputError, answer_input_error)
    app.add_exception_handler(HTTPException, answer_http_error)
    app.add_middleware(Dispatch)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    add_routes(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app
