"""Where sentences end: the only places where a haystack is cut and where a needle goes in.

Rules, no model: the same text gives the same offsets on every machine. A wrong boundary spoils a measurement and a missed one
costs only a little precision, so doubt means no boundary. Every offset stands directly behind a character that is no white
space, and the white space behind it begins the next sentence. All work is linear in the length of the text.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

VERSION = 1
"""Part of the keys of caches: raise it whenever any text gets other offsets than before."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Patterns that run over the whole text begin with one character class and consume what they match: no backtracking.
_STOP = re.compile(
    r"([.!?…।॥؟۔。！？｡]+)"
    r"((?:[\"'”’»“)\]}」』】》）〉]|\[\d{1,3}(?:[,–-] ?\d{1,3})*\]|[¹²³⁰-⁹†‡])*)"
    r"(\s*)"
)
_MARK = re.compile(r"[\n\"“”„«»‘’()\[\]（）「」『』《》]")
_OPENER = {"”": "“", "»": "«", "’": "‘", ")": "(", "]": "[", "）": "（", "」": "「", "』": "『", "》": "《"}
_OPENING = frozenset(_OPENER.values()) | {"„"}
_BRACKETS = frozenset("([（")
_BRACKET_REACH = 500
_NEWLINES = re.compile(r"\n\s*")
_WORD_END = re.compile(r"(?<=\S)(?=\s)")
_SEAM = re.compile(r"(?<![0-9A-Za-z_À-ӿ])|(?![0-9A-Za-z_À-ӿ])")
_LONG_LINE = 160  # nobody wraps text so wide: the end of such a line ends a paragraph

_BULLETS = frozenset("¿¡•●▪■◦‣·□◆►")
_NUMBERLIKE = frozenset("§¶$€£¥#±~≥≤<>")
_SHORT_NUMBER = re.compile(r"\d{1,3}")
_NEXT_WORD = re.compile(r"[\"'“‘«(\[]*([^\W\d_]+)(?![.\w-])")
_PARENTHESIS = re.compile(r"[(\[](?:[\"“‘]?[A-Z]|(?:\d{1,2}|[a-z]|[ivx]+)\))")
_LIST_MARK = re.compile(r"(?:[a-z]|[ivx]{1,5})[.)]\s")
_FOOTNOTE = re.compile(r"\d{1,3}(?=\s+[“\"]?[A-Z][a-z])")
_SAID = re.compile(
    r"\s+(?:(?:the|[A-Z][\w’'.-]*)\s+){1,3}(?:asked|asks|said|says|cried|cries|exclaimed|shouted|replied|wrote|answered|wondered)\b"
)
_BARE_CONSONANTS = re.compile(r"[A-Z][bcdfghjklmnpqrstvwxz]{1,4}")
# "1.", "a.", "iv.", "2.1.", "Item 7A.": the label in front of a sentence, not a sentence.
_NUMERAL = re.compile(r"(?:[a-z]|[ivxl]{1,6}|[a-z]?\d{1,3}[a-z]?(?:[.-]\w{1,3}){0,4}(?:\(\w\))*)", re.IGNORECASE)
_LABELS = _set(
    "item note table figure fig section sec chapter part article art exhibit schedule appendix step rule volume title box equation "
    "paragraph comment proposal number no file"
)
_BEFORE_LABEL = frozenset(":?!”—)]•●*")

_NEVER = _set(
    "MR MRS VS Mr Mrs Ms Mx Dr Drs Prof Messrs Mme Mlle Hon Rev Sen Sens Reps Gov Capt Cpt Cmdr Col Maj Lt Sgt Brig Adm Pres Supt "
    "Fr v vs cf Cf ca viz e.g E.g i.e I.e eg Pp pp esp incl approx resp lit Figs Eqs Refs spp"
)
"""Never the last word of a sentence."""
_DOUBTFUL = _set(
    # what is numbered, and the apparatus of scholars
    "No Nos Fig Eq Ref Tab Vol Vols Ch Chs Sec Secs Sect Art Arts Cl Para Paras Pt Pts Ed Eds ed eds Tit Ser Suppl Supp Add App Apps Appx "
    "vol vols cl fig figs eq eqs nn al seq cit op cert rel transl repr Op Cit sp ssp subsp St Ste Mt Ft Ave Blvd Rd Bldg "
    # law
    "Stat Stats Const Amdt Amdts Cong Sess Rec Reg Regs Fed Cir Ct Cts Dist Div Juris Evid Civ Crim Proc Ann Rep Atty Att’y Att'y Gen Arg "
    "Tr Pet Decl Dec Cert Cas Wheat Dall Harv Jur Hist Pol Comm Comp Conf Cty Eng Exec Ord Pub Priv Res Sup Rept JJ Parl Deb Wm Geo Chas "
    "Jas Thos Jos Edw Auth Educ Transp Admin Soc Sci Psych Hous Hosp Ins Mut Nat Natl Nat’l Nat'l Int’l Int'l Gov’t Gov't Dep’t Dep't "
    "Ass’n Ass'n Assn Assns Univ Inst Dept Depts Serv Servs Mfr Mfrs Elec Org Orgs Bros Sys Chem Med Am Amer Acad Assoc Envtl Pharm "
    "Constr Prac Annot Adv Cum Unif Treas Prelim Doc Misc "
    # companies, people, calendar, places
    "Inc Corp Corps Co Cos Ltd Ltda Bhd Sdn Pty Jr Sr Esq Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Mon Tue Tues Wed Thu Thurs Fri "
    "Ala Ariz Ark Cal Calif Colo Conn Del Fla Ga Ill Ind Kan Ky La Mass Md Mich Minn Miss Mo Mont Neb Nev Okla Ore Pa Penn Tenn Tex Va Vt "
    "Wash Wis Wyo inc corp ltd"
)
"""The last word of a sentence only where a word that begins sentences follows."""
_BEFORE_NUMBER = _set("no nos sec secs art arts para ch pt min max est ver pg pgs rev col note circa id ibid etc Id Ibid")
_LETTERED = _set("vitamin hepatitis type group class plan phase grade stage category arm factor schedule table appendix part war")
_STARTERS = _set(
    "The This That These Those There They It Its In On At As By For From With We Our He His She Her Their Such If When While Where Whether "
    "Although Though Because Since After Before During Under Upon Unlike However Moreover Furthermore Therefore Thus Hence Nevertheless "
    "Nonetheless Instead Finally First Second Third Another Additionally Also And But Or Nor Yet So Then Here What Who Why How Which Once "
    "Both Each Every Some Many Most Several All Any Other Others Among Between Despite Even Only Not Now Today Later Until To Of Your You "
    "My One Two Three A An See Ibid Id Cf Compare Accord Ante Petitioner Petitioners Respondent Respondents Held Nothing Neither Either "
    "Indeed Accordingly Similarly Likewise Consequently Subsequently Specifically Recently Originally Currently Over Through Following "
    "According Based Using Given Like Without Within Rather Perhaps Were Was Is Are Did Does Do Had Has Have Can Could Should Would"
)
_SURNAMES = _set("A An He Her So To Do My How Or Any Held One Second First Yet Can Is Has Was Like Even")


def ends(text: str) -> list[int]:
    """Offsets directly behind each sentence, ascending; the last one is the end of the text without trailing white space."""
    last = len(text.rstrip())
    if not last:
        return []
    spans = _spans(text)
    found = [*_true_ends(text, spans, last), last]
    # Headings, tables and lists have no sentence ends: there blocks, then lines, then words are cut apart. A line that goes on in lower
    # case is prose, wrapped or broken by a page, and is cut in the third round only.
    for limit, newlines, prose in ((600, 2, False), (1200, 1, False), (1200, 1, True)):
        found = [
            cut for a, b in pairwise([0, *found]) for cut in (*(_lines(text, (a, b), newlines, prose, spans) if b - a > limit else ()), b)
        ]
    return [cut for a, b in pairwise([0, *found]) for cut in (*_words(text, a, b), b)]


def split(text: str) -> list[str]:
    """The sentences without the white space around them; none is empty."""
    return [text[a:b].strip() for a, b in pairwise([0, *ends(text)])]


def _spans(text: str) -> list[tuple[int, int]]:  # noqa: PLR0912 (a branch for each kind of mark)
    """(opening, closing) of quotations and short brackets, ascending, without inner ones. What a paragraph leaves open protects nothing."""
    spans: list[tuple[int, int]] = []
    stack: list[tuple[str, int]] = []
    straight = line = -1

    def protect(start: int, end: int) -> None:
        while spans and spans[-1][0] > start:
            spans.pop()
        spans.append((start, end))

    for match in _MARK.finditer(text):
        mark, at = match[0], match.start()
        before, behind = text[at - 1 : at], text[at + 1 : at + 2]
        if mark == "\n":
            if at - line > _LONG_LINE or not text[line + 1 : at].strip():
                stack.clear()
                straight = -1
            line = at
        elif mark == '"':
            if straight >= 0:
                protect(straight, at)
                # A quote that plainly opens while one is open: perhaps the first is a stray. Both readings are protected.
                straight = at if behind.isalnum() and (before.isspace() or before in "([") else -1
            elif not before.isdigit() or behind.isalnum():  # else inches or seconds
                straight = at
        elif mark in "“”" and stack and stack[-1][0] == "„":
            protect(stack.pop()[1], at)
        elif mark in _OPENING:
            if mark != "‘" or (behind.isalpha() and not before.isalnum()):
                stack.append((mark, at))
        elif mark != "’" or not behind.isalnum():  # else an apostrophe
            opener = _OPENER[mark]
            for depth in range(len(stack) - 1, max(-1, len(stack) - 9), -1):
                kind, start = stack[depth]
                if kind == opener:
                    del stack[depth:]
                    if kind not in _BRACKETS or at - start <= _BRACKET_REACH:
                        protect(start, at)
                    break
    return spans


def _true_ends(text: str, spans: list[tuple[int, int]], last: int) -> Iterator[int]:
    previous = span = 0
    for match in _STOP.finditer(text, 0, last):
        end = match.end(2)
        if match.end() >= last:
            return
        if match[3]:
            if not _ends_here(text, match, previous):
                continue
        elif match[1][-1] in "。！？｡":
            # Behind a closing quote and no space the sentence may well go on: 「行く。」と言った
            if text[end] in "，、；：,;:…" or (match[2] and text[end] not in "「『“《"):
                continue
        elif (note := _FOOTNOTE.match(text, end)) and (match[2] or text[max(0, match.start() - 4) : match.start()].isalpha()):
            end = note.end()
        else:
            continue
        while span < len(spans) and spans[span][1] < end:
            span += 1
        if span == len(spans) or spans[span][0] >= end:
            yield end
            previous = end


def _ends_here(text: str, match: re.Match[str], previous: int) -> bool:
    """Whether a sentence ends at a stop with white space behind it; `previous` is where the last one ended."""
    marks, at, following = match[1], match.start(), match.end()
    if not _may_begin(text, following, match[3]):
        return False
    number = text[following].isdigit() or text[following] in _NUMBERLIKE
    if marks == ".":
        if not text[at - 1 : at].isspace():
            return _word_ends(text, match, previous, number)
        if text[at - 2 : at - 1] != ".":
            return not number
        return not number and (text[max(0, at - 6) : at].count(".") == 3 or _starts(text, following))  # ". . ." or ". . . ."
    if len(marks) > 4 and "." in marks:  # dots that lead to a page number or an amount
        return False
    if ("." in marks or "…" in marks) and "?" not in marks and "!" not in marks:
        return match[3].count("\n") > 1 or (len(marks) in (2, 4) and not number) or _starts(text, following)
    if text[max(0, at - 5) : at] == "Yahoo":
        return _starts(text, following)
    return not (match[2] and _SAID.match(text, match.end(2)))


def _may_begin(text: str, at: int, space: str) -> bool:
    """Whether a sentence may begin at `at`, behind `space`."""
    first, second = text[at], text[at + 1 : at + 2]
    return (
        first.isupper()
        or first.isdigit()
        or space.count("\n") > 1
        or (first.islower() and second.isupper())  # mRNA, iPhone
        or (first in "([" and bool(_PARENTHESIS.match(text, at)))
        or (first in "\"'“‘«„「『《" and not second.islower() and not second.isspace())
        or ("\n" in space and (first in "-–—*" or bool(_LIST_MARK.match(text, at))))
        or first in _NUMBERLIKE
        or first in _BULLETS
        or (first.isalpha() and not first.islower())
    )


def _word_ends(text: str, match: re.Match[str], previous: int, number: bool) -> bool:
    """Whether the period behind a word ends a sentence, and is not that of an abbreviation, an initial or a label."""
    at, following, space = match.start(), match.end(), match[3]
    first, second = text[following], text[following + 1 : following + 2]
    words = text[max(previous, at - 48) : at].rsplit(None, 3)
    if not words:
        return True
    whole = words[-1]
    if len(whole) > 3 and whole.islower() and whole.isalpha() and whole not in _NEVER:
        return True
    if not match[2] and len(whole) < 9 and _is_label(text, at, words):
        return False
    word = whole.replace("–", "—").rpartition("—")[2].lstrip("([{\"“‘'-")
    if len(word) > 3 and word[0].isdigit() and word[-1].isalpha():
        word = word.lstrip("0123456789")  # a footnote's number at its text: 7Amdt.
    if word in _NEVER:
        return False
    block = space.count("\n") > 1
    if number and not block and (word in _BEFORE_NUMBER or _SHORT_NUMBER.fullmatch(whole) or (first in "§¶" and word[:1].isupper())):
        return False
    inner = word.rpartition(".")[2]
    single = len(inner) == 1 and inner.isalpha()
    if single and inner == word:
        before = words[-2] if len(words) > 1 else ""
        if before[-1:].isdigit() and word in "ghmsyl" and not number:  # 24 h, 5 g
            return True
        if before.lower() in _LETTERED and first.isupper() and second != ".":  # vitamin C
            return True
    elif not single and not (
        word in _DOUBTFUL
        or _BARE_CONSONANTS.fullmatch(word)
        or (word.isupper() and (word.capitalize() in _DOUBTFUL or word == "AL"))
        or (inner != word and inner[:1].isupper() and len(inner) < 5)
        or (word.istitle() and word.isalpha() and len(word) < 6 and (number or (second == "." and first.isupper())))  # 85 L. Lib. J. 545
    ):
        return True
    if not number and not first.islower() and (block or ("\n" in space and text.rfind("\n", max(0, at - _LONG_LINE), at) < 0)):
        return True
    return _starts(text, following, surname=inner == word and single and word.isupper())


def _is_label(text: str, at: int, words: list[str]) -> bool:
    """Whether the last of the words, which ends at `at`, is a numeral (perhaps behind a word like "Item") that begins a sentence."""
    if not _NUMERAL.fullmatch(words[-1]):
        return False
    start = at - len(words[-1])
    words = words[:-1]
    if words and words[-1].lower().strip("(s.") in _LABELS:
        start = text.rfind(words[-1], 0, start)
        words = words[:-1]
    return not words or text[start - 1] == "\n" or words[-1][-1] in _BEFORE_LABEL or words[-1] in ("id.", "Id.", "ibid.", "Ibid.")


def _starts(text: str, at: int, *, surname: bool = False) -> bool:
    """Whether the word at `at` is one of those that begin sentences, and with `surname` no name either."""
    match = _NEXT_WORD.match(text, at)
    return bool(match) and match[1] in _STARTERS and not (surname and match[1] in _SURNAMES)


def _lines(text: str, stretch: tuple[int, int], newlines: int, prose: bool, spans: list[tuple[int, int]]) -> Iterator[int]:
    """Ends of blocks (two newlines) or lines in a stretch, none within a quotation; `prose` takes those in mid-sentence too."""
    start, end = stretch
    for match in _NEWLINES.finditer(text, start, end):
        cut = match.start()
        while cut > start and text[cut - 1].isspace():
            cut -= 1
        if cut == start or match[0].count("\n") < newlines or (not prose and text[match.end()].islower()):
            continue
        span = bisect_left(spans, (cut, 0)) - 1
        if span < 0 or spans[span][1] < cut:
            yield cut


def _words(text: str, start: int, end: int) -> Iterator[int]:
    """About every 2,000 characters the end of a word; between two characters only where 4,000 hold no white space."""
    while True:
        while text[start].isspace():
            start += 1
        if end - start <= 4000:
            return
        head = text[start : start + 2000]
        if match := _WORD_END.search(text, start + 2000, start + 4000):
            start = match.start()
        elif head[-1].isspace():
            start += len(head.rstrip())
        elif len(pieces := head.rsplit(None, 1)) == 2:
            start += len(pieces[0])
        else:
            # No seam within a word of the scripts that use spaces, if there is one, and none in front of a combining mark.
            start, limit = start + 2000, start + 4000
            if seam := _SEAM.search(text, start, limit):
                start = seam.start()
            while start < limit and unicodedata.category(text[start]) in ("Mn", "Mc", "Me", "Cf"):
                start += 1
        yield start
