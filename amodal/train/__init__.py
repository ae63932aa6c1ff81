"""The one loop, which names no method, and what it stands on."""
