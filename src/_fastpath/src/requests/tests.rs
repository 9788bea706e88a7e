//! Scenarios of the pool as a whole; the rules themselves are compared with their oracle from Python.
