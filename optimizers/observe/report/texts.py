"""Numbers as a person reads them in tables and pages. Pure."""

from __future__ import annotations


def share(value: float | None) -> str:
    """A score or a spread, or nothing."""
    return "" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """A gain with its sign, or nothing."""
    return "" if value is None else f"{value:+.3f}"


def p_text(value: float | None) -> str:
    """A p-value as papers print it.

    >>> p_text(0.0213), p_text(0.0002)
    ('.021', '<.001')
    """
    return "" if value is None else "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def describe_tests(questions: int, clusters: int) -> str:
    """Describes the clusters of questions, and the intervals and tests that fit.

    >>> print(describe_tests(720, 240))
    The questions form 240 clusters: intervals are cluster-robust, tests flip the signs of whole clusters.
    """
    if clusters < questions:
        return (
            f"The questions form {clusters:,} clusters: intervals are cluster-robust, tests flip the signs of whole "
            "clusters."
        )
    return (
        "Every question is its own cluster, so questions count as independent: tests are exact McNemar, or flip the "
        "signs of differences if scores are graded."
    )


def span(interval: tuple[float, float] | None) -> str:
    """Both ends, with signs where one is below 0.

    >>> span((-0.05, 0.1)), span((0.2, 0.35))
    ('-0.050..+0.100', '0.200-0.350')
    """
    if interval is None:
        return ""
    low, high = interval
    return f"{low:+.3f}..{high:+.3f}" if low < 0 else f"{low:.3f}-{high:.3f}"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, the two largest of them.

    >>> duration(42.4), duration(323.2), duration(7384)
    ('42 s', '5 min 23 s', '2 h 3 min')
    """
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def flat(content: object, prefix: str = "") -> list[tuple[str, str]]:
    """A nested object as rows of a table, names joined by dots.

    >>> flat({"seed": 0, "recipe": {"rounds": 5, "margin": None}})
    [('seed', '0'), ('recipe.rounds', '5'), ('recipe.margin', '')]
    """
    if not isinstance(content, dict) or not content:
        shown = ", ".join(map(str, content)) if isinstance(content, list) else str(content)
        return [(prefix, "" if content is None or content == {} else shown)]
    return [row for name, each in content.items() for row in flat(each, f"{prefix}.{name}" if prefix else str(name))]
