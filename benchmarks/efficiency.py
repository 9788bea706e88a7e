"""E, throughput of signed SPENDs over what checking their signatures allows: ``smartbft bench efficiency``.

python benchmarks/efficiency.py --repeat 5 -o efficiency.json
"""

from __future__ import annotations

import sys

from smartbft.cli import main

if __name__ == "__main__":
    main(["bench", "efficiency", *sys.argv[1:]])
