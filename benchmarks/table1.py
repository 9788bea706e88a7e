"""The SMaRtCoin table of the SMaRtChain paper, all ten cells, beside the paper's figures: ``smartbft bench table1``.

python benchmarks/table1.py --repeat 5 -o table1.json
"""

from __future__ import annotations

import sys

from smartbft.cli import main

if __name__ == "__main__":
    main(["bench", "table1", *sys.argv[1:]])
