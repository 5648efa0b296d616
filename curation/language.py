"""The language that a text is likely in. It observes; which languages are wanted is policy.text's business.

py3langid 0.4 (Lui and Baldwin 2012, "langid.py: An Off-the-shelf Language Identification Tool"; BSD-3-Clause): a naive
Bayes classifier over byte n-grams, its weights in the package. It is held to the languages that most of the web is
written in: with all 139, three words of English are as soon Scots or Luxembourgish.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from curation.weights import package_directory, read_weights
from policy.evidence import Language

WEIGHTS_PACKAGE, WEIGHTS_VERSION = "py3langid", "0.4.0"
WEIGHTS_FILE: Final = "data/model.npz.xz"
WEIGHTS_SHA256: Final = "f4f4a2c3465ca1f081541037f9cac23021d68151c2f709c55ae5eedfca522963"
_OF: Final = "the language detector"
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
    path = package_directory(WEIGHTS_PACKAGE, WEIGHTS_PACKAGE, WEIGHTS_VERSION, of=_OF) / WEIGHTS_FILE
    read_weights(path, WEIGHTS_SHA256, f"Install {WEIGHTS_PACKAGE}=={WEIGHTS_VERSION}", of=_OF)
    from py3langid.langid import LanguageIdentifier  # type: ignore[import-not-found,import-untyped,unused-ignore]

    identifier = LanguageIdentifier.from_model_file(path, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    return identifier
