"""Amazon Bedrock: Converse for all its models, InvokeModel for Claude in Anthropic's own format; and the signing of requests.

Traps:
- The model's id stands in the path, percent-encoded: `:` is `%3A` and the `/` of an ARN `%2F`. The signature encodes that path
  once more (`%253A`). The signing service is `bedrock`, though the host is `bedrock-runtime`.
- `inputTokens` is without what was read from or written to the cache, as with Anthropic.
- Models other than Claude refuse cache points or cache little: only Claude's messages are cut (see caching.py). An ARN of an
  inference profile of one's own does not tell the model, and gets none.
- count-tokens takes ids of models, not of inference profiles: the region's prefix (`us.`, `global.` ...) is left out there.
- InvokeModel takes at most 25 MB. Converse tells no model in its answer.
- A bearer token (`AWS_BEARER_TOKEN_BEDROCK`, no extra needed) goes into `authorization` and needs no signature.
"""

import base64
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from niah.backends import anthropic
from niah.backends.bodies import completion, count, no_completion, objects, output_cap, parts, sampling, text, tokens, total
from niah.backends.caching import pieces
from niah.backends.models import Capabilities
from niah.backends.wire import Body, Counting, Wire
from niah.errors import ContextOverflow, FatalError, MissingExtra, UsageError
from niah.trial import Prompt, Reply, Stop, Usage

BEARER_TOKEN = "AWS_BEARER_TOKEN_BEDROCK"
_SERVICE = "bedrock"
_GEOGRAPHY = re.compile(r"^(us-gov|us|eu|apac|jp|au|ca|sa|global)\.(?=[a-z0-9-]+\.)")
_STOPS: Mapping[str, Stop] = {
    "end_turn": "end",
    "stop_sequence": "end",
    "max_tokens": "length",
    "guardrail_intervened": "filter",
    "content_filtered": "filter",
    "refusal": "refusal",
}


def endpoint(region: str) -> str:
    """The base URL of a region."""
    return f"https://bedrock-runtime.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def region() -> str:
    """The region that AWS's own tools would take: environment, then profile; UsageError where none is set."""
    found = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not found and not os.environ.get(BEARER_TOKEN):
        found = _from_aws(lambda session: session.get_config_variable("region"))
    if not found:
        raise UsageError("bedrock needs a region: set AWS_REGION, as in AWS_REGION=us-east-1")
    if not re.fullmatch(r"[a-z0-9-]{1,30}", found):
        raise UsageError(f"AWS_REGION {found!r} is no region: write it as us-east-1")
    return found


def _path(method: str, model: str) -> str:
    return f"/model/{quote(model, safe='')}/{method}"


def _counting_path(model: str) -> str:
    return _path("count-tokens", _GEOGRAPHY.sub("", model))


def request(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    inference: Body = {"maxTokens": output_cap(prompt, capabilities)}
    cut = pieces(prompt, capabilities) if _caches(model, capabilities) else []
    return _said(prompt, cut) | {"inferenceConfig": inference | sampling(prompt, capabilities, "temperature", "topP")}


def _said(prompt: Prompt, cut: list[tuple[str, bool]]) -> Body:
    """System and messages; the user's message cut into these pieces, or whole."""
    system, user, begun = parts(prompt)
    content: list[Body] = []
    for piece, marked in cut or [(user, False)]:
        content.append({"text": piece})
        if marked:
            content.append({"cachePoint": {"type": "default"}})
    messages: list[Body] = [{"role": "user", "content": content}]
    if begun:
        messages.append({"role": "assistant", "content": [{"text": begun}]})
    return {"messages": messages} | ({"system": [{"text": system}]} if system else {})


def _caches(model: str, capabilities: Capabilities) -> bool:
    """Whether a model takes cache points: Claude, but for those whose prices are known and have none for reading a cache."""
    uncached = capabilities.prices is not None and capabilities.prices.cache_read is None and capabilities.cache_min_tokens is None
    return "anthropic.claude" in model and not uncached


def counted(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"input": {"converse": _said(prompt, [])}}


def reply(body: Any, seconds: float) -> Reply:
    answer = completion(body, "output")
    message = answer["output"].get("message") if isinstance(answer["output"], dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        raise no_completion(body)
    reason = text(answer.get("stopReason"))
    if reason == "model_context_window_exceeded":
        raise ContextOverflow("the model's window ran out while it answered (model_context_window_exceeded)")
    return Reply(
        text="".join(text(block.get("text")) for block in objects(message["content"])),
        stop=_STOPS.get(reason, "unknown"),
        usage=_usage(answer.get("usage")),
        seconds=round(seconds, 4),
        model=_routed(answer.get("trace")),
    )


def _routed(trace: Any) -> str:
    """The model that a prompt router chose; "" where there is none, for Converse names no model otherwise."""
    router = trace.get("promptRouter") if isinstance(trace, dict) else None
    return text(router.get("invokedModelId")) if isinstance(router, dict) else ""


def _usage(usage: Any) -> Usage:
    return Usage(
        input=total(usage, "inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens"),
        cached=count(usage, "cacheReadInputTokens"),
        output=count(usage, "outputTokens"),
        cache_write=count(usage, "cacheWriteInputTokens"),
    )


def invoked(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    return {"anthropic_version": "bedrock-2023-05-31", **anthropic.unaddressed(prompt, capabilities)}


def counted_invoked(prompt: Prompt, model: str, capabilities: Capabilities) -> Body:
    """The whole body of InvokeModel as a blob, which JSON carries in base64."""
    body = json.dumps(invoked(prompt, model, capabilities), ensure_ascii=False).encode("utf-8", "backslashreplace")
    return {"input": {"invokeModel": {"body": base64.b64encode(body).decode()}}}


CONVERSE = Wire(
    path=lambda model: _path("converse", model),
    request=request,
    reply=reply,
    prefill=True,
    counting=Counting(path=_counting_path, request=counted, tokens=lambda body: tokens(body, "inputTokens")),
)
INVOKE = Wire(
    path=lambda model: _path("invoke", model),
    request=invoked,
    reply=anthropic.reply,
    prefill=True,
    counting=Counting(path=_counting_path, request=counted_invoked, tokens=lambda body: tokens(body, "inputTokens")),
)


def signed_headers(method: str, url: str, body: bytes, region: str, *, credentials: Any = None) -> dict[str, str]:
    """The headers with which AWS takes a request: content type, date, session token and signature (SigV4, by botocore).

    `url` and `body` must be sent exactly as given here. A signature holds for some minutes: sign anew for every try.
    `credentials` are botocore's; those of botocore's own chain (environment, profile, SSO, role, IMDS ...) unless given.
    """
    frozen = _from_aws(lambda _: (credentials or default_credentials()).get_frozen_credentials())
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    signed = AWSRequest(method=method, url=url, data=body, headers={"content-type": "application/json"})
    SigV4Auth(frozen, _SERVICE, region).add_auth(signed)
    return {name.lower(): value for name, value in signed.headers.items()}


@functools.cache
def default_credentials() -> Any:
    """What botocore's chain finds; it renews temporary credentials by itself. FatalError where it finds nothing."""
    found = _from_aws(lambda session: session.get_credentials())
    if found is None:
        raise FatalError(
            f"no AWS credentials were found: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or {BEARER_TOKEN}",
            kind="credentials",
        )
    return found


def _from_aws(what: Callable[[Any], Any]) -> Any:
    """`what` of botocore's session; MissingExtra without botocore, FatalError where it is not content with the set-up."""
    session = _session()
    from botocore.exceptions import BotoCoreError

    try:
        return what(session)
    except BotoCoreError as error:
        raise FatalError(f"AWS's set-up on this machine: {error}"[:300], kind="credentials") from None


@functools.cache
def _session() -> Any:
    try:
        from botocore.session import Session
    except ImportError:
        raise MissingExtra("botocore", "bedrock", f"bedrock without {BEARER_TOKEN}") from None
    return Session()
