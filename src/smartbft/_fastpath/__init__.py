"""The native data plane (private). Sources: ``src/_fastpath``; interfaces: the ``.pyi`` files in this folder."""
