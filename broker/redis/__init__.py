"""Everything that talks to Redis: connections, the named scripts, the log, runs and queues."""
