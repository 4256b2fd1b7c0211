"""Every wire format by its name, and prompts to put into them."""

from pathlib import Path
from typing import Any

from niah.backends import anthropic, bedrock, completions, gemini, ollama, responses
from niah.backends.models import Capabilities
from niah.backends.wire import Counting, Wire
from niah.trial import Cue, Prompt, Sampling

BODIES = Path(__file__).parent / "bodies"
WIRES: dict[str, Wire] = {
    "anthropic": anthropic.WIRE,
    "converse": bedrock.CONVERSE,
    "invoke": bedrock.INVOKE,
    "gemini": gemini.WIRE,
    "responses": responses.WIRE,
    "ollama": ollama.WIRE,
    "completions": completions.WIRE,
}


ANY = Capabilities(model="x")
CLAUDE = "us.anthropic.claude-haiku-4-5-20251001-v1:0"


def prompt(cue: Cue = "off", *, context: str = "Some text.", shared: int = 0, system: str = "Answer briefly.", **sampling: Any) -> Prompt:
    return Prompt(
        system=system,
        context=context,
        question="Which?",
        cue="" if cue == "off" else "Here it is:",
        cue_mode=cue,
        layout="{context}\n\n{question}",
        tokens=12,
        placements=(),
        sampling=Sampling(**sampling),
        shared_characters=shared,
    )


def asked(name: str, prompt: Prompt, model: str = "m", **facts: Any) -> dict[str, Any]:
    return WIRES[name].request(prompt, model, Capabilities(model="x", **facts))


# --- counting


def counting(wire: Wire) -> Counting:
    assert wire.counting is not None
    return wire.counting
