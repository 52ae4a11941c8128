"""The application: routes, their errors, and its life."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from recbole_eimf.core.errors import UserError, suggestion
from recbole_eimf.core.files import TwiceError, json_of
from recbole_eimf.core.parts import MissingPartError
from recbole_eimf.core.version import __version__
from recbole_eimf.serving.http import answers, schema
from recbole_eimf.serving.http.answers import FieldError, QueryError
from recbole_eimf.serving.http.board import Board
from recbole_eimf.serving.http.capacity import Capacity, OverCapacityError
from recbole_eimf.serving.http.door import Door
from recbole_eimf.serving.http.metrics import Metrics
from recbole_eimf.serving.http.service import NotChangedError, Service
from recbole_eimf.serving.http.settings import TOKEN_VARIABLE, Settings, checked_token

PAGE = Path(__file__).parent / "page"
#: address -> file of the page
_FILES = {"/": "index.html", "/docs": "docs.html", **{f"/page/{name}": name for name in (
    "page.css", "page.js", "docs.js", "icon.svg")}}  # fmt: skip
_PATHS = frozenset((*_FILES, "/recommend", "/similar", "/items", "/reload", "/health", "/metrics", "/openapi.json"))

#: address -> the fields that its body may have
_FIELDS = {
    "/recommend": tuple(schema.RecommendRequest.model_fields),
    "/similar": tuple(schema.SimilarRequest.model_fields),
    "/items": tuple(schema.ItemsRequest.model_fields),
    "/reload": tuple(schema.ReloadRequest.model_fields),
}

_422 = {422: {"model": schema.Problems, "description": "a field is wrong; says which and why"}}
_503 = {503: {"model": schema.Refusal, "description": "over capacity: ask again after Retry-After seconds"}}
_507 = {
    507: {"model": schema.Refusal, "description": "the service's disk is full; what is served stays as it was"},
    500: {"model": schema.Refusal, "description": "a fault of the service's machine; what is served stays as it was"},
}
_403 = {403: {"model": schema.Refusal, "description": "switched off, or not with this token"}}


class _OnceRequest(Request):
    """Of a key that stands twice in a body the last value would be taken, without a word."""

    async def json(self) -> Any:
        return json_of(await self.body())


class _OnceRoute(APIRoute):
    """Has bodies read as :class:`_OnceRequest` does."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_OnceRequest(request.scope, request.receive))

        return handle


class RefusedError(Exception):
    """A request that is not allowed; the status and why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def create_app(settings: Settings) -> FastAPI:
    """The application of one worker; it loads what the board says when it starts.

    Raises:
        ConfigError: the token in the environment is too short to be one.
    """
    token = checked_token()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    board = Board(settings.shared)
    service, capacity = Service(board), Capacity(settings.capacity)
    metrics = Metrics(board.metrics if settings.workers > 1 else None)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        if service.now is None:
            service.start()
        watching = asyncio.create_task(service.watch())
        try:
            yield {"metrics": metrics}  # for connections, which know the application by nothing else
        finally:
            watching.cancel()
            capacity.close()
            service.stop()

    app = FastAPI(
        title="recbole_eimf",
        version=__version__,
        description="Recommendations from histories of items.",
        docs_url=None,  # FastAPI's pages load scripts from elsewhere; /docs is our own
        redoc_url=None,
        lifespan=life,
    )
    app.router.route_class = _OnceRoute
    app.state.service, app.state.capacity = service, capacity
    app.add_middleware(Door, capacity=capacity, metrics=metrics, paths=_PATHS, answers_to=settings.answers_to)
    _add_questions(app, service, capacity, metrics)
    _add_changes(app, service, token, settings.loopback)
    _add_status(app, service, board, metrics)
    _add_pages(app)
    _add_errors(app)
    return app


# ---------------------------------------------------------------------- questions
def _add_questions(app: FastAPI, service: Service, capacity: Capacity, metrics: Metrics) -> None:
    @app.post("/recommend", response_model=schema.RecommendAnswer, responses=_422 | _503)
    async def recommend(asked: schema.RecommendRequest) -> Response:
        """The k best items for histories: the lists that the run was evaluated with."""
        answer = await capacity.run(lambda: answers.recommended(service.now, asked))
        metrics.unknown.inc(sum(result["unknown_items"] for result in answer["results"]))
        metrics.popular.inc(sum(result["source"] == "popularity" for result in answer["results"]))
        return JSONResponse(answer)

    @app.post("/similar", response_model=schema.SimilarAnswer, responses=_422 | _503)
    async def similar(asked: schema.SimilarRequest) -> Response:
        """The k nearest items of each item."""
        return JSONResponse(await capacity.run(lambda: answers.similar(service.now, asked)))

    @app.get("/items", response_model=schema.FoundAnswer, responses=_422 | _503)
    async def find_items(
        request: Request,
        q: Annotated[str, Query(max_length=200, description="words of a title, or a token")] = "",
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Items whose title or token has all of these words, those bought most first; before them, the item of that
        token."""
        _check_query(request, ("q", "limit"))

        def found() -> dict[str, Any]:
            served = service.now
            return {"model": served.about, "items": served.find(q, limit)}

        return JSONResponse(await capacity.run(found))


def _check_query(request: Request, known: Sequence[str]) -> None:
    """Refuse what an address asks beyond what is read, and what it says twice. Raises QueryError."""
    names = [name for name, _ in request.query_params.multi_items()]
    for place, name in enumerate(names):
        if name not in known:
            raise QueryError(f"no such parameter; there are {', '.join(known)}", name)
        if name in names[:place]:
            raise QueryError("is given twice", name)


# ---------------------------------------------------------------------- changes
def _add_changes(app: FastAPI, service: Service, token: str | None, loopback: bool) -> None:
    @app.post("/items", response_model=schema.ItemsAnswer, responses=_422 | _403 | _503 | _507)
    async def add_items(asked: schema.ItemsRequest, authorization: Annotated[str | None, Header()] = None) -> Response:
        """Add items by their title, and by `profiles` where the model reads an LLM's words beside titles; every worker
        knows them when the answer comes. They last as long as the service.

        Where others than this machine can ask, or a token is set, it needs `Authorization: Bearer TOKEN`.
        """
        if token is not None or not loopback:
            _check(authorization, token)
        return JSONResponse(await service.add(asked.items, asked.profiles))

    @app.post("/reload", response_model=schema.ReloadAnswer, responses=_422 | _403 | _503 | _507)
    async def reload(
        asked: schema.ReloadRequest | None = None, authorization: Annotated[str | None, Header()] = None
    ) -> Response:
        """Take a model folder over, in every worker, without dropping a request.

        Needs `Authorization: Bearer TOKEN`.
        """
        _check(authorization, token)
        source = Path(service.now.state.source)
        name = source.name if asked is None or asked.folder is None else asked.folder
        if name in (".", "..") or Path(name).name != name or "\0" in name:
            raise FieldError(f"the name of a folder beside {source.name} is needed, without its path", "folder")
        return JSONResponse(await service.take_over(str(source.with_name(name))))


def _check(authorization: str | None, token: str | None) -> None:
    if token is None:
        raise RefusedError(403, f"switched off: start the service with {TOKEN_VARIABLE} in its environment")
    given = (authorization or "").removeprefix("Bearer ")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        raise RefusedError(403, "needs the header Authorization: Bearer TOKEN, with the token of the service")


# ---------------------------------------------------------------------- status and pages
def _add_status(app: FastAPI, service: Service, board: Board, metrics: Metrics) -> None:
    @app.get("/health", response_model=schema.Health)
    async def health() -> Response:
        """Whether the service answers, and with which model."""
        served = service.now
        return JSONResponse(
            {
                "status": "ok",
                "model": served.about,
                "items": len(served.model),
                "adds_items": served.adds_items,
            }
        )

    @app.get("/metrics", response_class=Response)
    def figures() -> Response:
        """Figures in Prometheus' format, of all workers together."""
        metrics.generation.set(service.now.state.generation)
        metrics.items.set(len(service.now.model))
        with contextlib.suppress(OSError, ValueError):  # where the shared folder cannot be read nobody knows
            metrics.behind.set(board.behind(board.read().generation))
        return Response(metrics.text(), media_type=metrics.content_type)


def _add_pages(app: FastAPI) -> None:
    for address, name in _FILES.items():

        def page(name: str = name) -> FileResponse:
            return FileResponse(PAGE / name)

        app.add_api_route(address, page, methods=["GET"], include_in_schema=False)


# ---------------------------------------------------------------------- errors
def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # without the input: it may be long, and no text that can be sent
        fields = _FIELDS.get(request.url.path, ())
        return _problems([(problem["loc"], _said_of(problem, fields)) for problem in error.errors()[:20]])

    @app.exception_handler(HTTPException)
    async def unreadable(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's for a body on which reading JSON broke, without a word why
            return _problems([(("body",), _why_unreadable(error.__cause__))])
        return await http_exception_handler(request, error)

    @app.exception_handler(FieldError)
    async def wrong(request: Request, error: FieldError) -> Response:
        return _problems([((error.part, *error.where), str(error))])

    @app.exception_handler(UserError)
    async def refused(request: Request, error: UserError) -> Response:
        field = next(
            (name for name in ("k", "only", "without", "profiles") if str(error).startswith((f"{name}=", f"{name}:"))),
            None,
        )
        field = field or {"/items": "items", "/reload": "folder"}.get(request.url.path)
        return _problems([(("body",) if field is None else ("body", field), str(error))])

    @app.exception_handler(OverCapacityError)
    async def over(request: Request, error: OverCapacityError) -> Response:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": str(error.seconds)})

    @app.exception_handler(NotChangedError)
    async def not_changed(request: Request, error: NotChangedError) -> Response:
        return JSONResponse({"detail": _sendable(str(error))}, 507 if error.full else 500)

    @app.exception_handler(MissingPartError)
    async def incomplete(request: Request, error: MissingPartError) -> Response:
        said = f"the service's machine cannot do this: {error}. What is served stays as it was."
        return JSONResponse({"detail": said}, 500)

    @app.exception_handler(RefusedError)
    async def not_allowed(request: Request, error: RefusedError) -> Response:
        return JSONResponse({"detail": error.detail}, error.status)


def _said_of(problem: Mapping[str, Any], fields: Sequence[str]) -> str:
    if problem["type"] == "extra_forbidden":
        near = suggestion(str(problem["loc"][-1])[:100], fields)
        return f"no such field; there are {', '.join(fields)}" + (near and f".{near}")
    if problem["type"] == "json_invalid":
        return f"not JSON ({problem['ctx']['error']} at character {problem['loc'][-1]})"
    return problem["msg"]


def _why_unreadable(error: BaseException | None) -> str:
    if isinstance(error, TwiceError):
        return f"{error}; keep one"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text ({error.reason} at byte {error.start})"
    if isinstance(error, RecursionError):
        return "not JSON that can be read (brackets nested too deep)"
    return f"not JSON that can be read ({str(error).partition(';')[0]})"


def _problems(found: list[tuple[tuple, str]]) -> Response:
    detail = [{"loc": [_sendable(place) for place in loc], "msg": _sendable(message)} for loc, message in found]
    return JSONResponse({"detail": detail}, 422)


def _sendable(value: Any) -> Any:
    """Keys of a request stand in messages, and JSON can hold halves of characters that UTF-8 cannot."""
    return value.encode("utf-8", "backslashreplace").decode()[:1000] if isinstance(value, str) else value
