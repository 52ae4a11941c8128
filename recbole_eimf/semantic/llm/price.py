"""What asking a language model will take, told before the first call: calls, tokens and price."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from recbole_eimf.semantic.llm.endpoint import OpenAISettings
from recbole_eimf.semantic.llm.prompt import PromptRequest

# The 1,124 replies at hand (2 to 7 interests each) average 309 characters, rounded up from 77 tokens; the 2,420 about
# items (knowledge) 302.
COMPLETION_TOKENS_PER_CALL = 100
#: calls for one prompt at most: a reply that cannot be read is asked for once more
MOST_CALLS = 2
# What a complaint takes beside the reply that it is about.
COMPLAINT_TOKENS = 40


def dollars(cost: float) -> str:
    """A price as one reads it; a small one is not nothing.

    >>> dollars(1.234), dollars(0.002), dollars(0.0)
    ('about $1.23', 'less than $0.01', 'nothing')
    """
    return "nothing" if cost == 0 else "less than $0.01" if cost < 0.005 else f"about ${cost:.2f}"


@dataclass(frozen=True)
class Estimate:
    """What a run will take, before the first call; ``cost`` in USD, None without both prices. ``most_calls``,
    ``most_cost``: where every reply has to be asked for once more."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    most_calls: int
    most_cost: float | None

    def __str__(self) -> str:
        cost = "price unknown (set llm_price_in and llm_price_out)" if self.cost is None else dollars(self.cost)
        said = (
            f"{self.calls} calls ({self.cached} answered by the journal), about {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens, {cost}"
        )
        if self.most_calls == self.calls:
            return said
        most = "" if self.most_cost is None else f" and {dollars(self.most_cost)}"
        return f"{said}; up to {self.most_calls} calls{most} where replies cannot be read and are asked for once more"


def estimate_calls(
    requests: Sequence[PromptRequest], settings: OpenAISettings, done: Collection[str], most: int = MOST_CALLS
) -> Estimate:
    """Estimate calls, tokens and cost of the requests whose user is not in ``done`` (see ``answered_users``).

    No tokenizer is asked: a prompt's tokens are its UTF-8 bytes / 4, which is the usual characters / 4 for English and
    closer to the truth for other scripts; a completion is taken as 100 tokens (measured on real replies), or
    ``max_tokens`` if that is less. ``most``: calls for one prompt at most, which the estimate names beside the one that
    is expected (1 where nothing is asked again, as in a batch); the prompt and the reply are then sent with a
    complaint. Retries of calls that got no answer are not foreseen.
    """
    asked = [request for request in requests if request.user_id not in done]
    prompt_tokens = sum((len(request.prompt.encode()) + 3) // 4 for request in asked)
    completion_tokens = len(asked) * min(COMPLETION_TOKENS_PER_CALL, settings.max_tokens)
    cost = cost_of(settings, prompt_tokens, completion_tokens)
    again = (most - 1) * (prompt_tokens + completion_tokens + COMPLAINT_TOKENS * len(asked))
    most_cost = cost_of(settings, prompt_tokens + again, most * completion_tokens)
    return Estimate(
        len(asked), len(requests) - len(asked), prompt_tokens, completion_tokens, cost, most * len(asked), most_cost
    )


def cost_of(settings: OpenAISettings, prompt_tokens: int, completion_tokens: int) -> float | None:
    if settings.price_in is None or settings.price_out is None:
        return None
    return (prompt_tokens * settings.price_in + completion_tokens * settings.price_out) / 1e6
