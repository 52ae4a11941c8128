"""What one may ask, and what comes back: the models that requests are checked against and the OpenAPI page shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from recbole_eimf.serving.http.settings import (
    MAX_EXPLAINED,
    MAX_HISTORIES,
    MAX_HISTORY,
    MAX_K,
    MAX_NEW,
    MAX_TITLE,
    MAX_TOKEN,
    MAX_TOKENS,
)


def _not_too_many(given: Any) -> Any:
    """pydantic looks at every entry of a dictionary before it counts them."""
    if isinstance(given, Mapping) and len(given) > MAX_NEW:
        said = f"{len(given):,} are given, and a request may have {MAX_NEW:,}; send them in several requests"
        raise PydanticCustomError("too_many", "{said}", {"said": said})
    return given


# fail_fast: a body has room for half a million wrong items, and to list them all kept a worker from everything else for
# seconds
Token = Annotated[StrictStr, Field(min_length=1, max_length=MAX_TOKEN)]
Title = Annotated[StrictStr, Field(min_length=1, max_length=MAX_TITLE)]
History = Annotated[list[Token], Field(fail_fast=True, max_length=MAX_HISTORY)]
Histories = Annotated[list[History], Field(fail_fast=True, min_length=1, max_length=MAX_HISTORIES)]
Tokens = Annotated[list[Token], Field(fail_fast=True, max_length=MAX_TOKENS)]
Texts = Annotated[dict[Token, Title], BeforeValidator(_not_too_many)]
K = Annotated[StrictInt, Field(ge=0, le=MAX_K)]


class _Strict(BaseModel):
    """A field that does not exist is a typing error, not to be passed over."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_more_than_there_are(cls, given: Any) -> Any:
        """Of thousands of fields that do not exist one is named, at once."""
        if isinstance(given, Mapping) and len(given) > len(cls.model_fields):
            stray = next(name for name in given if name not in cls.model_fields)
            said = f"{stray[:100]!r} is no field of this request; it has {', '.join(cls.model_fields)}"
            raise PydanticCustomError("stray", "{said}", {"said": said})
        return given


class RecommendRequest(_Strict):
    """One of ``history``, ``histories`` and ``user``."""

    history: History | None = Field(None, description="item tokens, oldest first", examples=[["B001", "B002"]])
    histories: Histories | None = Field(None, description="several at once")
    user: Token | None = Field(None, description="a user that the run knew, with all they had")
    users: Annotated[list[Token], Field(fail_fast=True, max_length=MAX_HISTORIES)] | None = Field(
        None, description="tokens of the histories' users: whose order of equal scores counts"
    )
    k: K = 10
    exclude_seen: StrictBool | None = Field(
        None, description="leave out what is in the history; by default as the run was evaluated"
    )
    only: Tokens | None = Field(None, description="candidates")
    without: Tokens | None = Field(None, description="items that are no candidates")
    explain: StrictBool = Field(False, description=f"say why; k times histories may then be {MAX_EXPLAINED:,}")


class SimilarRequest(_Strict):
    items: Annotated[list[Token], Field(min_length=1, max_length=MAX_HISTORIES)] = Field(
        description="items of the catalogue", examples=[["B001"]]
    )
    k: K = 10


class ItemsRequest(_Strict):
    items: Annotated[Texts, Field(min_length=1, max_length=MAX_NEW)] = Field(
        description="token -> title", examples=[{"NEW1": "Lavender hand cream 3 oz"}]
    )
    profiles: Annotated[Texts, Field(max_length=MAX_NEW)] = Field(
        {}, description="token -> an LLM's words on the item, for a model that reads them beside titles"
    )


class ReloadRequest(_Strict):
    folder: Token | None = Field(
        None, description="the name of a model folder beside the one served; by default that one again"
    )


class About(BaseModel):
    """The model an answer comes from."""

    name: str
    version: str = Field(description="of the model folder: changes when its content does")
    generation: int = Field(description="grows with every model taken over and every item added")


class Item(BaseModel):
    item: str
    score: float
    title: str | None
    interest: int | None = Field(None, description="with explain: the interest that won the maximum")
    because: list[str] | None = Field(None, description="with explain: items of the history nearest to it")
    added: str | None = Field(None, description="with explain: what the score prior adds most to its score for")
    sentence: str | None = Field(None, description="with explain, of EIMF: what is said of users like this one")
    sentence_weight: float | None = None


class Result(BaseModel):
    """The answer to one history."""

    items: list[Item]
    source: str = Field(description="model, or popularity where no item of the history is known")
    unknown_items: int = Field(description="items of the history that the model does not know; they are ignored")


class RecommendAnswer(BaseModel):
    model: About
    results: list[Result]
    proved: bool = Field(description="whether the lists are certain to be those of brute force")
    unknown_candidates: int | None = Field(
        None, description="items of only and without that the model does not know; they are ignored"
    )
    llm_used: bool | None = Field(
        None, description="with explain: whether an LLM is known to have written the sentences"
    )
    said_by: str | None = Field(None, description="with explain: in words, whose sentences they are")
    honesty: str | None = Field(None, description="with explain: what the sentences are worth")
    means_more: bool | None = Field(None, description="with explain: whether they mean more than a placebo's")


class SimilarItems(BaseModel):
    item: str
    similar: list[Item]


class SimilarAnswer(BaseModel):
    model: About
    results: list[SimilarItems]


class Named(BaseModel):
    item: str
    title: str | None


class FoundAnswer(BaseModel):
    model: About
    items: list[Named]


class ChangeAnswer(BaseModel):
    generation: int
    version: str
    workers: int = Field(description="that serve it")
    behind: int = Field(description="workers that do not yet")


class ItemsAnswer(ChangeAnswer):
    added: list[str] = Field(description="tokens that were new")


class ReloadAnswer(ChangeAnswer):
    items_kept: int = Field(description="items added by title that the new model has too")
    items_lost: int


class Health(BaseModel):
    status: str
    model: About
    items: int
    adds_items: bool = Field(description="whether the model can place new items by their title")


class Problem(BaseModel):
    loc: list[str | int] = Field(description="where it is, for example body, k")
    msg: str


class Problems(BaseModel):
    detail: list[Problem]


class Refusal(BaseModel):
    detail: str
