"""Reading numbers with units, and dates, out of short answers, and comparing them. Pure; bounded in time.

An answer is a quantity only as a whole: "3", "1,000", "3/4", "two dogs", "$5", "12.5 km/h", "about 3 m"; and not "a
3 m tree", "2 or 3", "2 dogs and 5 cats", "10:30", "the 1990s". So no number is picked out of a text that says
something else.
"""

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction


MAX_CHARACTERS = 100  # longer texts are no short answer
MAX_DIGITS = 9  # more without a separator are an identifier, which is right or wrong
LARGE = 10_000  # integers below are counts, years or labels, which are right or wrong

_MEASURES = {  # unit -> how else it is written
    "m": "meter metre",
    "cm": "centimeter centimetre",
    "mm": "millimeter millimetre",
    "km": "kilometer kilometre",
    "in": 'inch inches "',
    "ft": "foot feet '",
    "yd": "yard",
    "mi": "mile",
    "g": "gram gramme",
    "mg": "milligram",
    "kg": "kilogram kilo kgs",
    "t": "ton tonne",
    "lb": "lbs pound",
    "oz": "ounce",
    "l": "liter litre",
    "ml": "milliliter millilitre",
    "s": "sec second",
    "ms": "millisecond",
    "min": "minute",
    "h": "hr hour",
    "m^2": "m2 sqm square-meter square-metre",
    "cm^2": "cm2 square-centimeter square-centimetre",
    "km^2": "km2 square-kilometer square-kilometre",
    "ft^2": "ft2 sqft square-foot square-feet",
    "m^3": "m3 cubic-meter cubic-metre",
    "cm^3": "cm3 cubic-centimeter cubic-centimetre",
    "km/h": "kmh kph kilometer-per-hour kilometre-per-hour",
    "mph": "mile-per-hour mi/h",
    "m/s": "meter-per-second metre-per-second",
    "°": "degree deg",
    "°c": "celsius degree-celsius degree-c deg-c",
    "°f": "fahrenheit degree-fahrenheit degree-f deg-f",
    "%": "percent pct per-cent",
    "v": "volt",
    "a": "amp ampere",
    "w": "watt",
    "kw": "kilowatt",
    "kwh": "",
    "hz": "hertz",
    "j": "joule",
    "n": "newton",
    "pa": "pascal",
}
_CURRENCIES = {"usd": "$ dollar us-dollar", "eur": "€ euro", "gbp": "£", "jpy": "¥ yen", "vnd": "₫ đ dong"}
_OTHER_SPELLINGS = {
    spelling: unit for unit, spellings in (_MEASURES | _CURRENCIES).items() for spelling in [unit, *spellings.split()]
}
_NOT_A_UNIT = "or and to than not no but plus minus times by of out maybe about if is are more less"
_MAX_UNIT_WORDS = 4

_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS = {word: value for value, word in enumerate(_SMALL.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), start=2)
}
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_CUE = re.compile(
    r"(?:(?:so|thus|therefore|hence|the|my|final|correct|answer|it|there|this|that|is|are|was|were|"
    r"approximately|approx|about|around|roughly|nearly|almost)\b[ :,.]*|[~≈=:][ ]*)+"
)
_QUANTITY = re.compile(
    r"""
    (?P<sign>[-+]?) \s? (?P<currency>[$€£¥₫]?) \s?
    (?: (?P<whole>\d+) [ ] (?P<mixed>\d+/\d+)                    # 1 3/4
      | (?P<fraction>\d+/\d+)                                    # 3/4
      | (?P<grouped>\d{1,3}(?:,\d{3})+(?:\.\d+)?                 # 1,000.5
          | \d{1,3}(?:[ ]\d{3})+(?:[.,]\d+)?                     # 1 000,5
          | \d{1,3}(?:\.\d{3}){2,}(?:,\d+)?)                     # 1.000.000
      | (?P<plain>\d+(?:[.,]\d*)?|\.\d+)                         # 3  3.5  3,5  .5
        (?: e(?P<exponent>[-+]?\d{1,2}) | \s?[x×*]\s?10\^\{?(?P<power>[-+]?\d{1,2})\}? )?
    )
    (?P<scale>\s(?:hundred|thousand|million|billion|trillion))?
    \s?-?(?P<unit>[^\d\s,.;:!?()+*=<>-](?:[^\d,;:!?()+*=<>]|(?<=m)[23](?!\d)|(?<=\^)[23](?!\d))*)?
    """,
    re.VERBOSE,
)

_MONTHS = "january february march april may june july august september october november december"
_MONTH_NUMBERS = {
    name[:length]: number for number, name in enumerate(_MONTHS.split(), start=1) for length in (3, len(name))
}
_MONTH_NUMBERS["sept"] = 9
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTH_NUMBERS, key=len, reverse=True))})\.?"
_DAY, _YEAR = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?", r"(?P<year>\d{4})"
_DATES = [
    re.compile(pattern)
    for pattern in (
        rf"(?:{_DAY} (?:of )?)?{_MONTH}(?:,? {_YEAR})?",
        rf"{_MONTH} {_DAY}(?:,? {_YEAR})?",
        rf"{_YEAR}[-/.](?P<month>\d{{1,2}})[-/.]{_DAY}",
    )
]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number with its unit. Example: "1,200 m" is `Quantity(value=Fraction(1200), unit="m", is_measure=True)`."""

    value: Fraction
    unit: str = ""  # as the tables here spell it; a noun such as "dog"; or none
    is_measure: bool = False  # the unit is measured, not counted
    is_identifier: bool = False  # a long number, or one with a zero in front: a name, not an amount


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a short answer is; None where it is something else.

    >>> read_quantity("The answer is 3/4.").value == read_quantity("0.75").value
    True
    >>> read_quantity("two brown dogs").unit, read_quantity("A 3 m tree")
    ('brown dog', None)
    """
    text = _prepare(text)
    match = _QUANTITY.fullmatch(_spell_in_digits(text)) if text and not re.search(r"\d{4}s\b", text) else None
    unit = _read_unit(match) if match else None
    value = _read_value(match) if unit is not None else None
    if value is None:
        return None
    digits = match["plain"] or ""
    is_identifier = digits.isdecimal() and (len(digits) > MAX_DIGITS or (len(digits) > 1 and digits[0] == "0"))
    return Quantity(value=value, unit=unit, is_measure=unit in _MEASURES, is_identifier=is_identifier)


def agree(
    predicted: Quantity, gold: Quantity, relative_tolerance: float = 0.0, absolute_tolerance: float = 0.0
) -> bool:
    """Whether two quantities are the same.

    Units must be the same, or one contain the words of the other, or one be missing; 75 % is also 0.75. The tolerances
    do not apply where numbers are counts, years, prices or names: to a gold integer below 10,000 that is not measured,
    and to identifiers.
    """
    tolerances = (relative_tolerance, absolute_tolerance) if _is_approximate(gold) else (0.0, 0.0)
    if not _units_agree(predicted.unit, gold.unit):
        return False
    shares = [quantity.value / 100 if quantity.unit == "%" else quantity.value for quantity in (predicted, gold)]
    is_same_share = "%" in (predicted.unit, gold.unit) and "" in (predicted.unit, gold.unit) and shares[0] == shares[1]
    return is_same_share or _is_close(predicted.value, gold.value, *tolerances)


def read_date(text: str) -> tuple[int | None, int, int | None] | None:
    """Year, month and day of a date that names its month or begins with the year; None for other texts.

    >>> read_date("March 3rd, 2010"), read_date("2010-03-03"), read_date("May 2011"), read_date("3/4")
    ((2010, 3, 3), (2010, 3, 3), (2011, 5, None), None)
    """
    text = _prepare(text).removeprefix("on ").removeprefix("in ")
    for pattern in _DATES:
        match = pattern.fullmatch(text)
        if match is not None:
            month, day, year = match["month"], match["day"], match["year"]
            number = int(month) if month.isdecimal() else _MONTH_NUMBERS[month]
            return int(year) if year else None, number, int(day) if day else None
    return None


def _prepare(text: str) -> str:
    """Lower-case text in one line without cue words, markup and a final stop; empty where it is too long."""
    if len(text) > MAX_CHARACTERS:
        return ""
    text = unicodedata.normalize("NFKC", text.replace("²", "^2").replace("³", "^3")).casefold()
    text = re.sub(r"[*`]{2,}|\\boxed|\\text|\\(?=[%$])|(?<=\w)[.!]$", "", text.replace("−", "-"))
    text = " ".join(text.replace("{", "").replace("}", "").split()).removesuffix(".")
    if text.count("$") >= 2:
        text = text.replace("$", "")
    return _CUE.sub("", text, count=1).strip() if _CUE.match(text) else text


def _spell_in_digits(text: str) -> str:
    words = text.replace("-", " ").split(" ", 2)
    if words[0] not in _NUMBER_WORDS:
        return text
    value, rest = _NUMBER_WORDS[words[0]], words[1:]
    if value >= 20 and rest and 0 < _NUMBER_WORDS.get(rest[0], 0) < 10:
        value, rest = value + _NUMBER_WORDS[rest[0]], rest[1:]
    return " ".join([str(value), *rest])


def _read_value(match: re.Match) -> Fraction | None:
    whole, fraction = match["whole"] or "0", match["mixed"] or match["fraction"]
    if fraction is not None:
        over, under = map(int, fraction.split("/"))
        if under == 0:
            return None
        value = int(whole) + Fraction(over, under)
    elif match["grouped"] is not None:
        value = Fraction(_remove_groups(match["grouped"]))
    else:
        value = Fraction(match["plain"].replace(",", ".").rstrip("."))
    value *= Fraction(10) ** int(match["exponent"] or match["power"] or 0)
    value *= _SCALES.get((match["scale"] or "").strip(), 1)
    return -value if match["sign"] == "-" else value


def _remove_groups(number: str) -> str:
    if number.startswith("0,") and number.count(",") == 1:  # 0,500 is a half
        return number.replace(",", ".")
    separator = next(character for character in number if not character.isdecimal())
    return number.replace(separator, "").replace(",", ".")


def _read_unit(match: re.Match) -> str | None:
    """The unit, spelled as in the tables; "" where there is none; None where the words are none."""
    words = [_singular(word.strip(".")) for word in (match["unit"] or "").replace("-", " ").split()]
    words = [_singular(match["currency"])] * bool(match["currency"]) + words
    if len(words) > _MAX_UNIT_WORDS or set(words) & set(_NOT_A_UNIT.split()):
        return None
    return _OTHER_SPELLINGS.get("-".join(words)) or " ".join(_OTHER_SPELLINGS.get(word, word) for word in words)


def _singular(word: str) -> str:
    if word in _OTHER_SPELLINGS:
        return word
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _units_agree(first: str, second: str) -> bool:
    if not first or not second or first == second:
        return True
    if first in _OTHER_SPELLINGS or second in _OTHER_SPELLINGS:
        return False
    words = set(first.split()), set(second.split())
    return words[0] <= words[1] or words[1] <= words[0]


def _is_approximate(gold: Quantity) -> bool:
    if gold.is_identifier:
        return False
    is_whole = gold.value.denominator == 1
    return gold.is_measure or abs(gold.value) >= LARGE or not (is_whole or gold.unit in _CURRENCIES)


def _is_close(value: Fraction, gold: Fraction, relative_tolerance: float, absolute_tolerance: float) -> bool:
    return abs(value - gold) <= max(Fraction(relative_tolerance) * abs(gold), Fraction(absolute_tolerance))
