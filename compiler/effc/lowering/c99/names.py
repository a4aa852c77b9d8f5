"""Identifiers of C from any names: keywords, unicode, collisions, comments, or kilobytes of text cannot change more than a name."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection

__all__ = ["C_WORDS", "comment", "identifier"]

_TEXT = """
    auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return
    short signed sizeof static struct switch typedef union unsigned void volatile while _Bool _Complex _Imaginary _Alignas _Alignof
    _Atomic _Generic _Noreturn _Static_assert _Thread_local asm typeof alignas alignof and and_eq bitand bitor bool catch char16_t
    char32_t class compl concept consteval constexpr const_cast co_await co_return co_yield decltype delete dynamic_cast explicit export
    false friend mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public reinterpret_cast requires
    static_assert static_cast template this thread_local throw true try typeid typename using virtual wchar_t xor xor_eq main errno
    memcpy memset size_t linux unix NULL NAN INFINITY I
    """
C_WORDS = frozenset(_TEXT.split())
_LONGEST = 31  # letters that C99 promises to tell apart in external names


def identifier(name: str, taken: Collection[str] = ()) -> str:
    """A C identifier like a name: letters, digits and single underscores; another one where it is a word of C or C++, or taken.

    What is cut off or lost in a long or foreign name comes back as part of a digest, so that other names become other identifiers.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9]+", "_", plain).strip("_")
    if not words or words[0].isdigit():
        words = f"x_{words}" if words else "x"
    lost = len(words) > _LONGEST or not plain.strip() or bool(re.search(r"[^\x00-\x7f]", name))
    if lost:
        words = f"{words[: _LONGEST - 9].rstrip('_')}_{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    if words in C_WORDS or words in taken or re.match(r"u?int\d+_t$|U?INT\d+_(MAX|MIN|C)$", words):
        number = 2 if words in taken and words not in C_WORDS else 1
        base = words[: _LONGEST - 4].rstrip("_")
        while (words := f"{base}_{number}") in taken:
            number += 1
    return words


def comment(text: str, most: int = 100) -> str:
    """A text that a C comment can hold: printable ASCII in one line, with no end or beginning of a comment, no trigraph, no backslash."""
    shown = "".join(letter if " " <= letter <= "~" and letter != "\\" else "?" for letter in text[:most])
    shown = re.sub(r"\?(?=\?)", "? ", shown.replace("*/", "* /").replace("/*", "/ *"))
    return shown + ("..." if len(text) > most else "")
