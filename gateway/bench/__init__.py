"""``runcast bench``: this installation's own numbers, measured with real clients.

The process that was started publishes, through the broker's own verbs; the clients are in processes
of their own (``crowd``). ``account``, ``histogram``, ``pacing``, ``plan``, ``verdict``, ``report``
and ``wire`` are pure and hold the rules; the other modules do what those decide.
"""
