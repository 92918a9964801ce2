"""Talking to partners: HTTP, SSH, and the one policy of trying again."""
