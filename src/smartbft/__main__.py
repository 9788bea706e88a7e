"""``python -m smartbft`` is the ``smartbft`` command."""

from smartbft.cli import main

main()
