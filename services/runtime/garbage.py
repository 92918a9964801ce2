"""When garbage is looked for: that frees what refers to itself in a circle, which records never do."""

import gc


def collect_seldom() -> None:
    """Look for garbage from now on, but never in what is there by now.

    And seldom: batches are large lists of records, to look at which costs much and frees nothing.
    """
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()
