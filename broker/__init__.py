"""The kernel of Runcast: what an event is, where it goes, and how it survives."""
