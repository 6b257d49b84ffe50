"""Addresses of servers and databases, shown in one place, so that no password is stored, printed or passed on."""

from __future__ import annotations

import re

from study.errors import StudyError

HIDDEN = "***"
KEYS_OF_SECRETS = r"\w*pass\w*|\w*pwd|\w*secret\w*|\w*token\w*|\w*api_?key|\w*access_?key\w*|credential\w*|auth\w*"
IN_QUERY = re.compile(rf"([?&;](?:{KEYS_OF_SECRETS})=)([^&;\s]+)", re.IGNORECASE)
HOST_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:/@\[]*)(:\d*)?([/?#]|$)")


def shown(address: str | None) -> str:
    """Return an address as it may be printed or stored: without passwords, in whatever place of it."""
    text = IN_QUERY.sub(rf"\1{HIDDEN}", address or "")
    # A path that was made of an address has one slash.
    match = re.match(r"(.*?)(:/{1,2})(.*)", text, re.DOTALL)
    scheme, separator, rest = match.groups() if match else ("", "", text)
    if scheme.endswith("sqlite"):
        return text
    user, at, place = rest.rpartition("@")
    if at and ":" in user and not HOST_WITH_PORT.match(user):
        return f"{scheme}{separator}{user.partition(':')[0]}:{HIDDEN}@{place}"
    if separator == "://" and not at and not HOST_WITH_PORT.match(rest):
        # What stands behind the colon is no port: a password whose @ was forgotten.
        return f"{scheme}{separator}{rest.partition(':')[0]}:{HIDDEN}"
    return text


def hidden(text: str) -> str:
    """Return a message without the passwords of the addresses in it."""
    return " ".join(map(hidden_word, text.split(" ")))


def hidden_word(word: str) -> str:
    """Return a word of a message without a password; what stands around an address in a sentence is none of it."""
    if not any(mark in word for mark in (":/", "@", "=")) or "HOST:PORT" in word:
        return word
    address = word.rstrip(":;,.)'\"`")
    return shown(address) + word[len(address) :]


def holds_secret(address: str | None) -> bool:
    """Say whether an address holds a password, or a key in its query; malformed ones too."""
    return shown(address) != (address or "")


def names_user(address: str) -> bool:
    """Say whether an address names a user."""
    return "@" in address.partition("://")[2].partition("/")[0]


def refuse_secret(option: str, address: str | None, instead: str) -> None:
    """Raise StudyError if an address holds a password; `instead` says where to keep it."""
    if holds_secret(address):
        raise StudyError(f"{option} holds a password, which would be stored and shown; {instead}")
