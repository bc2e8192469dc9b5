"""Gateways and workers on Kubernetes."""
