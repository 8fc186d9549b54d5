"""Secrets that are looked for afterwards, in every form that a log could hold them in."""

import base64
from urllib.parse import quote


class Canaries:
    """Secrets by name, and the texts in which none may stand."""

    def __init__(self, **secrets: str) -> None:
        self.secrets = dict(secrets)
        self.texts: dict[str, str] = {}

    def add(self, name: str, secret: str) -> str:
        """Remember one more secret; returns it."""
        self.secrets[name] = secret
        return secret

    def keep(self, where: str, text: str | bytes) -> str:
        """Remember what a person may read; returns it as text."""
        shown = text.decode(errors="replace") if isinstance(text, bytes) else text
        self.texts[where] = self.texts.get(where, "") + shown
        return shown

    def found(self) -> list[str]:
        """What stands somewhere, as ``name in where``."""
        return [
            f"{name} in {where}: …{text[max(0, at - 80) : at + 40]!r}"
            for name, secret in self.secrets.items()
            for where, text in self.texts.items()
            if (at := max(text.find(form) for form in _forms(secret))) >= 0
        ]


def _forms(secret: str) -> set[str]:
    """As it is, percent-encoded, as data of a Secret; of a token also the signature alone, which makes it one."""
    forms = {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}
    if secret.count(".") == 2:
        forms.add(secret.rpartition(".")[2])
    return forms
