"""Word classes: closed lists of words, by language.

Articles, conjunctions and prepositions are closed classes: a list of them is nearly complete, and no tagger is needed.
What a language has in the place of one is in its list: Chinese determiners are demonstratives and numerals with a
measure word, Japanese prepositions are particles after a word. A word that may be of two, such as "that", is in one of
them. Of the other classes the lists hold the most frequent words, of English only.
"""

from collections.abc import Mapping

LANGUAGES = {
    "en": "English",
    "fr": "French",
    "de": "German",
    "es": "Spanish",
    "zh": "Chinese",
    "ja": "Japanese",
}
"""Language: its name."""
DEFAULT = "en"
"""That of a dataset of which the config names none; its text may be code."""
WITHOUT_BLANKS = ("zh", "ja")
"""Languages that write no blank between words."""
CLOSED = ("articles and determiners", "conjunctions", "prepositions")
"""Classes that every language has a list of."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LISTS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "en": {
        "articles and determiners": _words(
            "the a an this that these those each every some any no all both either neither another such"
        ),
        "conjunctions": _words(
            "and or but nor so yet if because although though while whereas unless until whether than since as when"
        ),
        "prepositions": _words(
            "of in to for with on at by from into about after before between through over under against during without "
            "within along among across behind beyond near upon toward towards onto off per via above below around "
            "inside outside beside except like"
        ),
        "pronouns": _words(
            "i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself "
            "yourself himself herself itself ourselves themselves who whom whose which what"
        ),
        "auxiliary verbs": _words(
            "is are was were be been being am has have had having do does did can could will would shall should may "
            "might must"
        ),
        "frequent verbs": _words(
            "use used uses using get gets got make makes made take takes took taken give gives gave given go goes went "
            "gone see sees saw seen come comes came say says said set sets find finds found know knows knew known "
            "put run runs ran call calls called need needs want wants keep keeps kept show shows shown write writes "
            "wrote written read reads add adds added returns create creates created think tell told turn "
            "ask asked work works become became leave feel provide provides provided allow allows hold holds held "
            "follow follows buy buys bought sell sold eat eats ate look looks"
        ),
        "colours": _words(
            "red green blue yellow black white brown orange purple pink grey gray violet dark light bright pale golden "
            "silver colour color colours colors coloured colored"
        ),
        "places and directions": _words(
            "left right top bottom up down upper lower middle center centre side front back corner edge north south "
            "east west inner outer horizontal vertical away here there next floor wall ceiling"
        ),
        "numbers in words": _words(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand "
            "million billion first second third fourth fifth sixth seventh eighth tenth last once twice half double"
        ),
        "code keywords": _words(
            "def class return import self none true false elif else lambda yield async await raise assert try "
            "finally pass break continue global print int float str list dict tuple bool void const static public "
            "private template typename struct namespace auto char unsigned virtual inline include define typedef "
            "function var let null undefined div span http https www"
        ),
    },
    "fr": {
        "articles and determiners": _words(
            "le la les l' un une des du ce cet cette ces chaque tout toute tous toutes quelque quelques aucun aucune"
        ),
        "conjunctions": _words(
            "et ou mais donc or ni car que qu' si quand lorsque puisque comme parce quoique tandis afin"
        ),
        "prepositions": _words(
            "de d' à au aux en dans par pour sur avec sans sous vers chez entre depuis pendant contre selon après "
            "avant derrière devant jusque jusqu' malgré parmi dès hors"
        ),
    },
    "de": {
        "articles and determiners": _words(
            "der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner dieser diese "
            "dieses diesen diesem jeder jede jedes jeden jedem alle mancher manche"
        ),
        "conjunctions": _words(
            "und oder aber denn sondern dass weil wenn ob als obwohl während damit bevor nachdem sobald falls sowie"
        ),
        "prepositions": _words(
            "in im ins an am ans auf aus bei beim bis durch für gegen hinter mit nach neben ohne seit über um unter "
            "von vom vor zu zum zur zwischen wegen trotz gegenüber"
        ),
    },
    "es": {
        "articles and determiners": _words(
            "el la los las lo un una unos unas este esta estos estas ese esa esos esas aquel aquella cada todo toda "
            "todos todas algún alguna algunos algunas ningún ninguna"
        ),
        "conjunctions": _words("y e o u pero sino ni que si porque pues aunque cuando como mientras donde"),
        "prepositions": _words(
            "a al ante bajo con contra de del desde durante en entre hacia hasta mediante para por según sin sobre tras"
        ),
    },
    "zh": {
        "articles and determiners": _words(
            "这 那 这个 那个 这些 那些 一个 一些 一种 每 每个 各 某 某个 该 此 本 任何 所有"
        ),
        "conjunctions": _words(
            "和 与 及 以及 或 或者 但 但是 而 而且 因为 所以 如果 虽然 然而 并 并且 还是 不过 因此 即使 只要"
        ),
        "prepositions": _words(
            "在 从 对 对于 把 被 给 向 往 以 于 由 为 为了 关于 根据 按照 通过 跟 比 将 自 当 除了 沿着"
        ),
    },
    "ja": {
        "articles and determiners": _words(
            "この その あの どの こんな そんな あんな どんな ある あらゆる いわゆる 各 全て"
        ),
        "conjunctions": _words(
            "そして しかし また または および だから ので けれど けれども それから それで しかも ただし "
            "なぜなら もし 及び 並びに 又は"
        ),
        "prepositions": _words("は が を に で と へ から まで より の も や として について によって における にて"),
    },
}
"""Language: class: its words, in small letters."""


def is_of(text: str, name: str, language: str) -> bool:
    """Whether a token with this text is a word of the class `name` in a language.

    It must be the whole word: in languages with blanks between words it follows a blank or begins with a capital,
    because a piece without either, such as "on" in "button", is the rest of a word.
    """
    word = text.strip()
    if not word or word.lower() not in LISTS[language].get(name, ()):
        return False
    return language in WITHOUT_BLANKS or text[0].isspace() or word[0].isupper()
