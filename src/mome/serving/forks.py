"""Imported by the process that others are forked from, and by no other."""

import signal

# A signal to all processes of the server, as some supervisors send it, must not end this one before the requests are
# done; it ends with the server.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
