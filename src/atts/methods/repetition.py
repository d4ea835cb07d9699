"""Whether a text has run into a loop."""

PROBE = 1500
"""Characters at the end that must stand earlier too: about a segment of 500 tokens."""

TIMES = 4
"""A passage that stands so often in a row is a loop; three times may be a proof by cases."""


def repeats(text: str) -> bool:
    """Whether the text ends in one passage over and over again, verbatim.

    The passage of p characters stands at least ``TIMES`` times in a row, and the end of the text
    has the period p for at least ``PROBE`` + p characters. Passages of up to ``PROBE`` characters
    are found for certain: were there an earlier place of the probe nearer than the period, the end
    would have a smaller period (Fine and Wilf 1965). Takes one search of the text from its end.

    >>> repeats("So x = 2. " + "Wait, let me check again. " * 70)
    True
    >>> repeats("So x = 2. " + "Wait, let me check again. " * 7)
    False
    """
    length = len(text)
    earlier = text.rfind(text[-PROBE:], 0, length - 1) if length > PROBE else -1
    if earlier < 0:
        return False
    period = length - PROBE - earlier
    end = text[-TIMES * period :]
    return len(end) == TIMES * period and end[period:] == end[:-period]
