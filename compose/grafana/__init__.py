"""The Grafana dashboard of a fleet."""
