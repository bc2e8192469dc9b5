"""Agents of other frameworks: each module here is for one, and imports it when it is imported.

Nothing is imported here: who uses one framework needs no other.
"""
