"""Ollama's own chat: https://github.com/ollama/ollama/blob/main/docs/api.md. The base URL is http://127.0.0.1:11434, without /v1.

Traps:
- Its OpenAI endpoint has no field for the window: long prompts are cut to the server's default without a word. Here
  `options.num_ctx` sets it, with room for a tokenizer that makes more tokens of the prompt than the one that planned it.
- `truncate` and `shift` default to true: a prompt that does not fit is shortened, and while an answer is written the middle of
  the prompt is thrown away. Both are switched off; servers from before 2025-10 ignore that, and the reported prompt tokens tell.
- Another `num_ctx` loads the model anew, which takes seconds: rounding keeps trials of about one length on one loaded model.
- No endpoint counts tokens; `prompt_eval_count` comes with the answer. Thoughts stand in `message.thinking`, never in `content`.
- A last assistant message is continued by some templates and closed by others: no prefill.
"""

import math
from collections.abc import Mapping
from typing import Any

from niah.backends.bodies import completion, count, no_completion, output_cap, sampling, text
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Wire
from niah.trial import Prompt, Reply, Stop, Usage

BASE_URL = "http://127.0.0.1:11434"
_STOPS: Mapping[str, Stop] = {"stop": "end", "length": "length"}
_TOKENS_A_PLANNED_TOKEN = 1.35
_ROUND_TO = 1024


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    assert prompt.cue_mode != "prefill", "the plan lets no prefill through to a wire that does not take it"
    cap = output_cap(prompt, capabilities)
    window = math.ceil((prompt.tokens * _TOKENS_A_PLANNED_TOKEN + cap) / _ROUND_TO) * _ROUND_TO
    options: Body = {"num_ctx": window, "num_predict": cap}
    return {
        "model": model,
        "messages": prompt.messages(),
        "stream": False,
        "truncate": False,
        "shift": False,
        "options": options | sampling(prompt, capabilities, "temperature", "top_p"),
    }


def reply(body: Any, seconds: float) -> Reply:
    answer = completion(body, "message")
    message = answer["message"]
    if not isinstance(message, dict) or answer.get("done") is False:
        raise no_completion(body)
    return Reply(
        text=text(message.get("content")),
        stop=_STOPS.get(text(answer.get("done_reason")), "unknown"),
        usage=Usage(input=count(answer, "prompt_eval_count"), output=count(answer, "eval_count")),
        seconds=round(seconds, 4),
        model=text(answer.get("model")),
    )


WIRE = Wire(path=lambda _: "/api/chat", request=request, reply=reply, prefill=False)
