"""EDI as values, and as the text of what we answer."""
