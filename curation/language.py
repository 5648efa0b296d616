"""The language that a text is likely in. It observes; which languages are wanted is policy.text's business.

py3langid 0.4 (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"; BSD-3-Clause): a naive
Bayes classifier over byte n-grams, its weights in the package. It is held to the languages that most of the web is
written in: with all 139, three words of English are as soon Scots or Luxembourgish.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from policy.errors import ConfigurationError
from policy.evidence import Language

WEIGHTS_PACKAGE, WEIGHTS_VERSION = "py3langid", "0.4.0"
WEIGHTS_FILE: Final = "data/model.npz.xz"
WEIGHTS_SHA256: Final = "f4f4a2c3465ca1f081541037f9cac23021d68151c2f709c55ae5eedfca522963"
MAX_CHARS: Final = 1_000  # more of a text tells no more

# ISO 639-1; Norwegian is "no", whichever of its two forms. What is in none of them comes out as its nearest kin.
LANGUAGES: Final = (
    *("ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi", "hr", "hu"),
    *("id", "it", "ja", "ko", "lt", "lv", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv", "ta", "th"),
    *("tr", "uk", "ur", "vi", "zh"),
)


def detect(text: str) -> Language:
    """The likeliest of LANGUAGES for a text, with its probability.

    Of short texts little can be told. Measured in November 2026 with the captions of Tux Paint's stamps: of 952 in
    English none comes out as another language with a probability of 0.8 or more; of other languages in Latin letters a
    tenth to a half do with up to three words, a third to nine tenths with four to seven, and 0.9 to all from eight on
    (Portuguese 0.6). Raises ConfigurationError when the weights are missing, or are not those that were measured.
    """
    identifier = _identifier()
    code, probability = identifier.classify(" ".join(text[:MAX_CHARS].split()))
    # Three digits: what lies below differs between processors.
    return Language(str(code), round(float(probability), 3))


@functools.cache
def _identifier() -> Any:  # py3langid has no types
    """Loaded once a process: it takes one to two seconds, and 130 MB."""
    remedy = f"Install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}"
    spec = find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            f"the weights of the language detector are missing: {WEIGHTS_FILE}, sha256 {WEIGHTS_SHA256}",
            where=f"the package {WEIGHTS_PACKAGE}",
            remedy=remedy,
        )
    path = Path(spec.submodule_search_locations[0]) / WEIGHTS_FILE
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        what = (
            f"weights of the language detector cannot be read ({error.strerror}), sha256 {WEIGHTS_SHA256} is expected"
        )
        raise ConfigurationError(what, where=str(path), remedy=remedy) from error
    if found != WEIGHTS_SHA256:
        what = f"not the weights that are expected: sha256 {found}, expected {WEIGHTS_SHA256}"
        raise ConfigurationError(what, where=str(path), remedy=remedy)
    from py3langid.langid import LanguageIdentifier  # type: ignore[import-not-found,import-untyped,unused-ignore]

    identifier = LanguageIdentifier.from_model_file(path, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
