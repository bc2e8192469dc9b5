"""The same run in other words: pure translators from the log to what public clients understand.

Authentication, scopes, resume and stop are the same code for all of them.
"""
