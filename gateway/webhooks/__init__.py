"""Webhooks out: events posted to a back end, signed, tried again, in order per thread."""
