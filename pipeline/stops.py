"""Stops: the signs and the words by which sentences.py tells where sentences end.

The lists are short on purpose: what they lack costs a cut too many or too few, never a token. They
were written from common knowledge of the languages, after no published list.
"""

import numpy as np

# White_Space of Unicode: what `\s` is in GPT-2's pattern. Python's `\s` also has U+001C to U+001F.
SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
LINE_ENDS = "\n\v\f\r\x85\u2028\u2029"
# Stops that mean nothing else: ideographic and full-width, Arabic and Urdu, danda, Armenian,
# Ethiopic, Burmese, Khmer.
PLAIN_STOPS = "\u3002\uff01\uff1f\uff61\u061f\u06d4\u0964\u0965\u0589\u1362\u104b\u17d4"
STOPS = ".!?\u2026" + PLAIN_STOPS
# Greek letters, as ranges of an expression. Beside one a semicolon is a question mark.
GREEK = "\u0386\u0388-\u03ff\u1f00-\u1fff"
# Closing quotes and brackets, and the emphasis marks of Markdown.
CLOSERS = ")]}\"'*_\u201d\u2019\u00bb\u203a\u300d\u300f\u3011\uff09\u3009\u300b\u3015"
# A stop before one of these ends nothing.
CONTINUES = ".!?\u2026,;:)]}"

# Letters that may follow a plain stop without a space, all of them in every Unicode since 4.1, so
# that no pattern takes one for something else.
FOLLOWERS = (
    (0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0x621, 0x63A), (0x641, 0x64A), (0x671, 0x6D3),
    (0x905, 0x939), (0x3041, 0x3094), (0x30A1, 0x30FA), (0x3400, 0x4DB5), (0x4E00, 0x9FBB),
    (0xAC00, 0xD7A3), (0xFF10, 0xFF19), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A),
)  # fmt: skip
FIRST_CJK, HIRAGANA = 0x3041, (0x3041, 0x3094)
# Words with a full stop of their own that a name, a text or an example follows, in small letters:
# English, then German, French, Spanish, Portuguese and Italian.
ABBREVIATIONS = (
    "mr mrs ms messrs sr dr prof st rev hon gen brig adm col capt cmdr lt sgt pfc maj gov sen sens "
    "rep reps supt mt ft e.g i.e cf viz vs eg ie ibid "
    "z.b d.h u.a bzw vgl ca hr fr hrsg mme mlle mgr sra srta ud uds dra sig dott exmo"
)
# Words with a full stop of their own where a number follows.
BEFORE_NUMBERS = (
    "no nos nr fig figs vol vols ch chap sec sect art eq eqs p pp ed par para tab bd abb abs kap "
    "jan feb mar apr jun jul aug sep sept oct nov dec pag cap num n v vv op act sc"
)
# Words that open a sentence often and a name seldom: after an initial or an acronym only they
# tell that the sentence ended.
OPENERS = (
    "The A An In On At It Its He She They We You I But And So If When While As For From By To With "
    "This That These Those There Then Thus His Her Their Our My Your What Who How Why Where "
    "After Before Since Because Although However Some Many Most All Both Each No Not Yet Or Nor "
    "Is Are Was Were Do Does Did Will Would Can Could One Another Also Now Once Only Such"
)

# Small letters of the scripts that have any in common use; the blocks end with Cyrillic.
SMALL = np.array([chr(point).islower() for point in range(0x530)])

MAX_WORD_BYTES = 8  # of the words above; what a 64-bit integer holds
# In a text without capitals a word of more letters is none of the other abbreviations (a guess).
MAX_SHORT_LETTERS = 3
