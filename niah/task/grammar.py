"""Text from a grammar: how the built-in corpora are written, one document at a time, without a network.

A grammar is data (haystacks/grammars/*.toml; the format is described in docs/own-corpus.md). Document number i of a
grammar is always the same text, so a corpus of any size can be read from any place in it. Facts of a document are drawn
once and reused, so that a document agrees with itself.
"""

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from niah.errors import CorpusError, did_you_mean
from niah.task.english import NUMBER_FORMS, PHRASE_FORMS
from niah.task.seeded import Draw

Value: TypeAlias = str | int | float
Env: TypeAlias = dict[str, Value]
Slot: TypeAlias = Callable[["_Document"], Value]
Template: TypeAlias = tuple[str | Slot, ...]

_SLOT = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)$")
_DOUBLE_STOP = re.compile(r"(?<!\.)\.\.(?!\.)")  # a sentence that ends in "Inc." has its full stop already
_NAME = re.compile(r"[a-z_][a-z0-9_]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a document: a heading and paragraphs of sentences."""

    headings: tuple[Template, ...]
    chance: float
    repeat: tuple[int, int]
    paragraphs: tuple[int, int]
    sentences: tuple[int, int]
    first: str
    body: tuple[str, ...]
    last: str
    facts: tuple[tuple[str, Template], ...]
    paragraph_facts: tuple[tuple[str, Template], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of document: how often, its facts, its title and its sections."""

    name: str
    weight: float
    facts: tuple[tuple[str, Template], ...]
    title: tuple[Template, ...]
    sections: tuple[Section, ...]


@dataclass(slots=True)
class Grammar:
    """A compiled grammar. `document(number)` writes one document."""

    name: str
    rules: dict[str, tuple[Template, ...]] = field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()

    @classmethod
    def load(cls, name: str, data: Mapping[str, Any]) -> "Grammar":
        """Compile the tables of a grammar file; CorpusError names the rule with an unknown slot or a bad number."""
        grammar = cls(name)
        for rule, words in data.get("lexicon", {}).items():
            if "{" in words:
                raise CorpusError(f"grammar {name}, lexicon {rule}: words hold no slots; make it a rule")
            grammar.rules[rule] = tuple((word.strip(),) for word in re.split(r"[|\n]", words) if word.strip())
        compile_ = _Compiler(grammar)
        for rule, alternatives in data.get("rules", {}).items():
            if not isinstance(alternatives, list) or not alternatives:
                raise CorpusError(f"grammar {name}, rule {rule}: a rule is a list of alternatives")
            grammar.rules[rule] = tuple(compile_(alternative, f"rule {rule}") for alternative in alternatives)
        grammar.kinds = tuple(_kind(table, compile_) for table in data.get("kind", []))
        if not grammar.kinds:
            raise CorpusError(f"grammar {name}: it has no [[kind]] of document")
        compile_.check()
        return grammar

    def document(self, number: int) -> tuple[str, str]:
        """Title and text (title, headings and paragraphs, separated by blank lines) of document `number`."""
        draw = Draw("builtin", self.name, number)
        dice = draw.fraction() * sum(kind.weight for kind in self.kinds)
        kind = self.kinds[-1]
        for candidate in self.kinds:
            dice -= candidate.weight
            if dice < 0:
                kind = candidate
                break
        try:
            return _Document(self, draw).write(kind)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise CorpusError(f"grammar {self.name}, kind {kind.name}: an expression cannot be computed ({error})") from None


class _Document:
    """One document being written: its facts, and for each rule of whole sentences the deck that is left to draw from."""

    def __init__(self, grammar: Grammar, draw: Draw):
        self.name = grammar.name
        self.rules = grammar.rules
        self.draw = draw
        self.facts: Env = {}
        self.bound: Env = {}
        self._decks: dict[str, list[int]] = {}

    def write(self, kind: Kind) -> tuple[str, str]:
        self._draw_facts(kind.facts)
        title = self.sentence(self.draw.pick(kind.title))
        blocks = [title]
        for section in kind.sections:
            if self.draw.fraction() >= section.chance:
                continue
            for turn in range(1, self.draw.between(*section.repeat) + 1):
                self.facts["turn"] = turn
                self._draw_facts(section.facts)
                heading = self.sentence(self.draw.pick(section.headings)) if section.headings else ""
                blocks.extend([heading] * bool(heading))
                blocks.extend(self._paragraph(section) for _ in range(self.draw.between(*section.paragraphs)))
        return title, "\n\n".join(blocks)

    def _draw_facts(self, facts: Sequence[tuple[str, Template]]) -> None:
        for name, template in facts:
            self.bound = {}
            self.facts[name] = template[0](self) if len(template) == 1 and callable(template[0]) else self.expand(template)

    def _paragraph(self, section: Section) -> str:
        self._draw_facts(section.paragraph_facts)
        rules = [section.first] * bool(section.first)
        rules += [self.draw.pick(section.body) for _ in range(self.draw.between(*section.sentences) - len(rules))]
        rules += [section.last] * bool(section.last)
        return " ".join(self.sentence(self._deal(rule)) for rule in rules)

    def _deal(self, rule: str) -> Template:
        """The next alternative of a rule of sentences: all of them once, in drawn order, before any comes again."""
        deck = self._decks.get(rule)
        if not deck:
            deck = self._decks[rule] = self.draw.permutation(len(self.rules[rule]))
        return self.rules[rule][deck.pop()]

    def sentence(self, template: Template) -> str:
        self.bound = {}
        text = self.expand(template)
        if ".." in text:
            text = _DOUBLE_STOP.sub(".", text)
        return text[:1].upper() + text[1:]

    def expand(self, template: Template) -> str:
        return "".join([part if isinstance(part, str) else str(part(self)) for part in template])

    def value(self, name: str) -> Value:
        if name in self.bound:
            return self.bound[name]
        if name in self.facts:
            return self.facts[name]
        if name not in self.rules:
            raise CorpusError(f"grammar {self.name}: the fact {name!r} is used before it is drawn, or in a kind that has none")
        template = self.draw.pick(self.rules[name])
        return template[0](self) if len(template) == 1 and callable(template[0]) else self.expand(template)


class _Compiler:
    """Turns "text {slot} text" into a template, and afterwards checks that every name it met exists."""

    def __init__(self, grammar: Grammar):
        self._grammar = grammar
        self._used: dict[str, str] = {}
        self.facts: set[str] = {"turn"}

    def __call__(self, text: str, where: str) -> Template:
        parts: list[str | Slot] = []
        for i, piece in enumerate(_SLOT.split(text)):
            if i % 2:
                parts.append(self._slot(piece.strip(), where))
            elif piece:
                parts.append(piece)
        return tuple(parts)

    def use(self, name: str, where: str) -> str:
        self._used.setdefault(name, where)
        return name

    def check(self) -> None:
        known = self.facts | self._grammar.rules.keys()
        for name, where in self._used.items():
            if name not in known:
                raise CorpusError(f"grammar {self._grammar.name}, {where}: unknown slot {name!r}; {did_you_mean(name, known)}")

    def _slot(self, text: str, where: str) -> Slot:
        head, *modifiers = (part.strip() for part in text.split(":"))
        binding, equals, rest = head.partition("=")
        if equals and _NAME.match(binding.strip()):
            name, slot = binding.strip(), self._head(rest.strip(), where)
            self.facts.add(name)
            slot = _bind(name, slot)
        else:
            slot = self._head(head, where)
        for modifier in modifiers:
            slot = _modify(slot, modifier, f"grammar {self._grammar.name}, {where}")
        return slot

    def _head(self, head: str, where: str) -> Slot:
        span = _RANGE.match(head)
        if span:
            low, high = int(span[1]), int(span[2])
            return lambda document: document.draw.between(low, high)
        if head.startswith("="):
            return self._expression(head[1:].strip(), where)
        if not _NAME.match(head):
            raise CorpusError(f"grammar {self._grammar.name}, {where}: {{{head}}} is neither a name, a range like 3..9 nor = an expression")
        self.use(head, where)
        return lambda document: document.value(head)

    def _expression(self, text: str, where: str) -> Slot:
        try:
            return self._compute(ast.parse(text, mode="eval").body, where)
        except (SyntaxError, KeyError) as error:
            raise CorpusError(f"grammar {self._grammar.name}, {where}: cannot compute {text!r} ({error})") from None

    def _compute(self, node: ast.expr, where: str) -> Slot:
        match node:
            case ast.Constant(value=int() | float() as number):
                return lambda _: number
            case ast.Name(id=name):
                self.use(name, where)
                return lambda document: document.value(name)
            case ast.BinOp(left=left, op=op, right=right):
                a, b, combine = self._compute(left, where), self._compute(right, where), _OPERATORS[type(op)]
                return lambda document: combine(a(document), b(document))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._compute(operand, where)
                return lambda document: -_number(inner(document))
            case ast.Call(func=ast.Name(id="between"), args=[low, high]):
                a, b = self._compute(low, where), self._compute(high, where)
                return lambda document: document.draw.between(int(a(document)), int(b(document)))
            case ast.Call(func=ast.Name(id="round"), args=[inner_node, ast.Constant(value=int() as digits)]):
                inner = self._compute(inner_node, where)
                return lambda document: round(_number(inner(document)), digits)
            case ast.Call(func=ast.Name(id="int"), args=[inner_node]):
                inner = self._compute(inner_node, where)
                return lambda document: int(_number(inner(document)))
            case _:
                raise KeyError("only numbers, facts, + - * / // %, between(a, b), round(x, n) and int(x)")


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _number(value: Value) -> int | float:
    return value if isinstance(value, (int, float)) else float(value)


def _bind(name: str, slot: Slot) -> Slot:
    def bind(document: _Document) -> Value:
        value = document.bound[name] = slot(document)
        return value

    return bind


def _modify(slot: Slot, modifier: str, where: str) -> Slot:
    if modifier in PHRASE_FORMS:
        change = PHRASE_FORMS[modifier]
        return lambda document: change(str(slot(document)))
    if modifier in NUMBER_FORMS:
        spell = NUMBER_FORMS[modifier]
        return lambda document: spell(int(_number(slot(document))))
    if re.fullmatch(r",?(\.\d+f?)?", modifier):
        spec = modifier if not modifier.startswith((".", ",.")) or modifier.endswith("f") else modifier + "f"
        return lambda document: format(_number(slot(document)), spec)
    raise CorpusError(f"{where}: unknown modifier {modifier!r}; {did_you_mean(modifier, [*PHRASE_FORMS, *NUMBER_FORMS, ',', '.1', ',.1'])}")


_KIND_KEYS = {"name", "weight", "facts", "title", "section"}
_SECTION_KEYS = {"heading", "chance", "repeat", "paragraphs", "sentences", "first", "body", "last", "facts", "paragraph_facts"}


def _checked(table: Mapping[str, Any], known: set[str], required: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise CorpusError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
    for key in required:
        if not table.get(key):
            raise CorpusError(f"{where}: {key!r} is missing or empty")


def _kind(table: Mapping[str, Any], compile_: _Compiler) -> Kind:
    where = f"kind {table.get('name', '?')}"
    _checked(table, _KIND_KEYS, ("name", "title", "section"), where)
    facts = _facts(table.get("facts", {}), compile_, where)
    return Kind(
        name=table["name"],
        weight=float(table.get("weight", 1)),
        facts=facts,
        title=tuple(compile_(title, f"{where}, title") for title in table["title"]),
        sections=tuple(_section(section, compile_, f"{where}, section {number}") for number, section in enumerate(table["section"], 1)),
    )


def _section(table: Mapping[str, Any], compile_: _Compiler, where: str) -> Section:
    _checked(table, _SECTION_KEYS, ("body",), where)
    body = table["body"] if isinstance(table["body"], list) else [table["body"]]
    first, last = table.get("first", ""), table.get("last", "")
    for rule in [*body, first, last]:
        if rule:
            compile_.use(rule, where)
    return Section(
        headings=tuple(compile_(heading, f"{where}, heading") for heading in table.get("heading", [])),
        chance=float(table.get("chance", 1)),
        repeat=_span(table.get("repeat", "1"), where),
        paragraphs=_span(table.get("paragraphs", "1..3"), where),
        sentences=_span(table.get("sentences", "3..6"), where),
        first=first,
        body=tuple(body),
        last=last,
        facts=_facts(table.get("facts", {}), compile_, where),
        paragraph_facts=_facts(table.get("paragraph_facts", {}), compile_, where),
    )


def _facts(table: Mapping[str, Any], compile_: _Compiler, where: str) -> tuple[tuple[str, Template], ...]:
    compile_.facts |= table.keys()
    for name, text in table.items():
        if not isinstance(text, str):
            raise CorpusError(f'{where}, fact {name}: a fact is a text with slots, as in "{{1120..1780}}"')
    return tuple((name, compile_(text, f"{where}, fact {name}")) for name, text in table.items())


def _span(text: str, where: str) -> tuple[int, int]:
    low, _, high = str(text).partition("..")
    if not low.isdigit() or (high and not high.isdigit()) or int(high or low) < int(low):
        raise CorpusError(f"{where}: {text!r} is not a number or a range like 2..4")
    return int(low), int(high or low)
