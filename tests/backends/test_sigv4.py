"""Signing for Bedrock. No Bedrock was asked: the signatures are held against botocore's, and a loopback server checks them as AWS would.

The golden signatures were made by botocore 1.44.5 alone (`SigV4Auth` over an `AWSRequest`), with fixed keys at a fixed time.
"""

import builtins
import http.server
import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from niah.backends import bedrock
from niah.backends.models import Capabilities
from niah.errors import FatalError, MissingExtra, UsageError
from tests.backends.wires import prompt

botocore = pytest.importorskip("botocore", reason="botocore is not installed: pip install 'niah[bedrock]'")

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2VjEXAMPLE=="
NOW = datetime(2026, 11, 23, 12, 30, 45, tzinfo=UTC)
MODEL = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
PROFILE = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/a1b2c3d4"
BODY = '{"messages":[{"role":"user","content":[{"text":"Grüße, 世界"}]}],"inferenceConfig":{"maxTokens":2048}}'.encode()


def credentials(token: str | None = None) -> Any:
    from botocore.credentials import Credentials

    return Credentials(ACCESS, SECRET, token)


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_: NOW)


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[None]:
    """A machine on which AWS was never set up."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "DEFAULT_PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for cached in (bedrock._session, bedrock.default_credentials):
        cached.cache_clear()
    yield
    for cached in (bedrock._session, bedrock.default_credentials):
        cached.cache_clear()


GOLDEN: list[tuple[str, str, str | None, bytes, str, str]] = [
    ("converse", MODEL, None, BODY, "us-east-1", "e77591206a483315f43f794731736dd1b7209e884c4c7567b29f1c6ad3f1da7d"),
    ("converse", MODEL, TOKEN, BODY, "us-east-1", "ebe892b9688d60d6228856cffb40c57233ff06656ae5ae43c29df3f9a1463fd0"),
    ("invoke", MODEL, None, b"{}", "us-east-1", "b51dd8e90d30685dcb4a13df1e971802cd9d2725f8ed33e9ae4fd57456887d7c"),
    ("converse", PROFILE, TOKEN, BODY, "eu-west-1", "4bce8a086e2185cb41186813603f2fa8ce41512aa02ac62a56c4b86c93d894cc"),
    ("count", MODEL, None, b"", "us-east-1", "e97d52ca311d8fb770a2fe39b4c0177402e1d154fbbbd8b3bc737e338c6663af"),
]


@pytest.mark.usefixtures("at_noon")
@pytest.mark.parametrize(("wire", "model", "token", "body", "region", "signature"), GOLDEN)
def test_golden_signatures(*, wire: str, model: str, token: str | None, body: bytes, region: str, signature: str) -> None:
    """Converse, InvokeModel and count-tokens; a colon and a slash in the model's id; with and without a session token."""
    url = bedrock.endpoint(region) + {
        "converse": bedrock.CONVERSE.path,
        "invoke": bedrock.INVOKE.path,
        "count": bedrock._counting_path,
    }[wire](model)
    headers = bedrock.signed_headers("POST", url, body, region, credentials=credentials(token))
    names = "content-type;host;x-amz-date" + (";x-amz-security-token" if token else "")
    assert headers == {
        "content-type": "application/json",
        "x-amz-date": "20261123T123045Z",
        **({"x-amz-security-token": token} if token else {}),
        "authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS}/20261123/{region}/bedrock/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}",
    }
    assert SECRET not in str(headers)


@pytest.mark.usefixtures("at_noon")
def test_what_is_signed() -> None:
    """The path is encoded once more than it is sent, as AWS does for all services but S3; the body's hash is part of it."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    url = bedrock.endpoint("us-east-1") + bedrock.CONVERSE.path(MODEL)
    assert url == "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse"
    request = AWSRequest("POST", url, data=BODY, headers={"content-type": "application/json"})
    signer = SigV4Auth(credentials().get_frozen_credentials(), "bedrock", "us-east-1")
    signer.add_auth(request)
    canonical = signer.canonical_request(request).split("\n")
    assert canonical[1] == "/model/us.anthropic.claude-haiku-4-5-20251001-v1%253A0/converse"
    signed = [
        bedrock.signed_headers("POST", *changed, credentials=credentials())["authorization"]
        for changed in (
            (url, BODY, "us-east-1"),
            (url, BODY + b" ", "us-east-1"),
            (url + "-stream", BODY, "us-east-1"),
            (url, BODY, "eu-west-1"),
        )
    ]
    assert len(set(signed)) == 4
    assert signed[0] == request.headers["Authorization"]


class Verifier(http.server.BaseHTTPRequestHandler):
    """Bedrock's door: signs anew what arrived, with botocore, and compares."""

    def do_POST(self) -> None:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        body = self.rfile.read(int(self.headers["content-length"]))
        given = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/bedrock/aws4_request, SignedHeaders=([^,]+), Signature=(\w{64})",
            self.headers["authorization"],
        )
        assert given is not None
        access, day, region, names, signature = given.groups()
        assert access == ACCESS
        assert {"host", "x-amz-date", "content-type"} <= set(names.split(";"))
        url = f"http://{self.headers['host']}{self.path}"
        request = AWSRequest("POST", url, data=body, headers={name: self.headers[name] for name in names.split(";")})
        request.context["timestamp"] = self.headers["x-amz-date"]
        assert request.context["timestamp"][:8] == day
        signer = SigV4Auth(credentials(self.headers.get("x-amz-security-token")).get_frozen_credentials(), "bedrock", region)
        again = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        answer = b"{}" if again == signature else b'{"message":"The request signature we calculated does not match"}'
        self.send_response(200 if again == signature else 403)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def door() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Verifier)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(5)
    server.server_close()


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("model", [MODEL, PROFILE, "meta.llama4-scout-17b-instruct-v1:0"])
def test_a_signature_arrives_whole(door: str, model: str, token: str | None) -> None:
    """Over a real connection through httpx: path and body reach the server as they were signed; a changed body is refused."""
    url = door + bedrock.CONVERSE.path(model)
    assert quote(model, safe="") in url
    headers = bedrock.signed_headers("POST", url, BODY, "us-east-1", credentials=credentials(token))
    with httpx.Client(trust_env=False) as client:
        assert client.post(url, content=BODY, headers=headers).status_code == 200
        assert client.post(url, content=BODY + b" ", headers=headers).status_code == 403
        assert client.post(url + "-stream", content=BODY, headers=headers).status_code == 403
        assert client.post(url, content=BODY, headers=headers | {"x-amz-date": "20200101T000000Z"} | _redated(headers)).status_code == 403


def _redated(headers: dict[str, str]) -> dict[str, str]:
    """The same signature under another day."""
    return {"authorization": re.sub(r"/\d{8}/", "/20200101/", headers["authorization"])}


@pytest.mark.usefixtures("no_aws")
def test_credentials_come_from_aws_own_chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """From a profile's file, as from the environment; the region as well."""
    (tmp_path / "credentials").write_text(f"[work]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert bedrock.region() == "eu-west-1"
    headers = bedrock.signed_headers("POST", "https://x.amazonaws.com/model/m/converse", b"{}", "eu-west-1")
    assert f"Credential={ACCESS}/" in headers["authorization"]
    assert "x-amz-security-token" not in headers


@pytest.mark.usefixtures("no_aws")
def test_an_environment_with_a_session_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ACCESS_KEY_ID", ACCESS), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN), ("REGION", "us-west-2")):
        monkeypatch.setenv(f"AWS_{name}", value)
    assert bedrock.region() == "us-west-2"
    headers = bedrock.signed_headers("POST", "https://x.amazonaws.com/model/m/converse", b"{}", "us-west-2")
    assert headers["x-amz-security-token"] == TOKEN


@pytest.mark.usefixtures("no_aws")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, an unknown profile, no region: which variables to set."""
    with pytest.raises(FatalError, match="AWS_PROFILE") as caught:
        bedrock.signed_headers("POST", "https://x.amazonaws.com/", b"", "us-east-1")
    assert caught.value.kind == "credentials"
    with pytest.raises(UsageError, match="AWS_REGION"):
        bedrock.region()
    monkeypatch.setenv("AWS_REGION", "us-east-1.evil.example/")
    with pytest.raises(UsageError, match="no region"):
        bedrock.region()
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    bedrock._session.cache_clear()
    with pytest.raises(FatalError, match="nobody"):
        bedrock.default_credentials()
    with pytest.raises(FatalError, match="nobody"):
        bedrock.region()


@pytest.mark.usefixtures("no_aws")
def test_without_botocore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """And with a bearer token and a region nothing of it is needed."""
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "botocore":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"niah\[bedrock\]"):
        bedrock.signed_headers("POST", "https://x.amazonaws.com/", b"", "us-east-1")
    with pytest.raises(MissingExtra, match="AWS_BEARER_TOKEN_BEDROCK"):
        bedrock.region()
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert bedrock.region() == "eu-central-1"
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-api-key-x")
    with pytest.raises(UsageError, match="AWS_REGION"):
        bedrock.region()


@pytest.mark.usefixtures("no_aws")
def test_aws_own_client_asks_the_same() -> None:
    """botocore's client, with its sending replaced: same URL, same body, same signing service; its validator takes our bodies."""
    from botocore.awsrequest import AWSResponse
    from botocore.session import Session

    class Raw(io.BytesIO):
        def stream(self) -> Iterator[bytes]:
            yield self.read()

    sent: list[Any] = []

    def send(request: Any, **_: Any) -> Any:
        sent.append(request)
        return AWSResponse(request.url, 200, {}, Raw(b"{}"))

    client = Session().create_client("bedrock-runtime", "us-east-1", aws_access_key_id=ACCESS, aws_secret_access_key=SECRET)
    client.meta.events.register("before-send.bedrock-runtime", send)
    asking = prompt("prefill", context="A sentence. " * 5000, shared=40_000, temperature=0.5, top_p=0.9)
    body = bedrock.CONVERSE.request(asking, MODEL, Capabilities(model="x"))
    assert "cachePoint" in json.dumps(body)
    client.converse(modelId=MODEL, **body)
    client.converse(modelId=PROFILE, **body)
    plain = MODEL.removeprefix("us.")
    counting = bedrock.CONVERSE.counting
    assert counting is not None
    client.count_tokens(modelId=plain, **counting.request(asking, plain, Capabilities(model="x")))
    ours = [bedrock.CONVERSE.path(MODEL), bedrock.CONVERSE.path(PROFILE), counting.path(MODEL)]
    assert [request.url for request in sent] == [bedrock.endpoint("us-east-1") + path for path in ours]
    assert json.loads(sent[0].body) == body
    assert all("/us-east-1/bedrock/aws4_request" in str(request.headers["Authorization"]) for request in sent)


def test_endpoints() -> None:
    assert bedrock.endpoint("us-gov-west-1") == "https://bedrock-runtime.us-gov-west-1.amazonaws.com"
    assert bedrock.endpoint("cn-north-1") == "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"
