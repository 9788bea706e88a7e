"""The coin in the simulator: chains of transactions that are signed ahead, over crashes and a bad network."""

from __future__ import annotations

import random

import pytest

from smartbft._fastpath.pool import split_requests
from smartbft.apps.coin import CoinApplication, mint, predict_coin_ids, spend
from smartbft.testing import Simulation, SimulationOptions

AMOUNT = 100


class CoinSimulation:
    """Each honest client mints a coin in each of its sessions and passes it on to itself; others may not mint."""

    def __init__(self, options: SimulationOptions) -> None:
        self.simulation = Simulation(
            options, application=self.application, operation=self.operation, invariant=self.money_is_conserved
        )
        self.keys = [client.signer.public_key for client in self.simulation.honest_clients]

    def application(self) -> CoinApplication:
        return CoinApplication(self.simulation.chain_id, minters=self.keys)

    def operation(self, draw: random.Random, index: int, number: int) -> bytes:
        if index >= len(self.keys) or number == 1:
            return mint([AMOUNT])
        session = self.simulation.honest_clients[index].session
        (coin,) = predict_coin_ids(self.simulation.chain_id, self.keys[index], session, number - 1, 1)
        return spend([coin], [(self.keys[index], AMOUNT)])

    def money_is_conserved(self, applications: list[CoinApplication]) -> None:
        sessions = sum(number == 1 for key, number, _ in self.results())
        for application in applications:
            facts = application.facts()
            assert facts["supply"] == facts["minted"] == AMOUNT * sessions
            assert facts["coins"] == sessions

    def results(self) -> list[tuple[bytes, int, int]]:
        """Key, sequence number and result code of each request of an honest client."""
        found = []
        order = self.simulation.checkers.order
        for instance in range(1, self.simulation.decided + 1):
            batch = order.batch(instance)
            assert batch is not None
            results, at = order.results(instance), 0
            for key, _, number, _, _ in split_requests(batch[2]):
                length = int.from_bytes(results[at : at + 4], "little")
                if key in self.keys:
                    found.append((key, number, results[at + 4]))
                at += 4 + length
        return found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 312))
def test_coins_survive_whatever_happens(seed: int):
    coins = CoinSimulation(SimulationOptions(seed=seed, instances=20))
    coins.simulation.run()
    codes = {code for _, _, code in coins.results()}
    assert codes == {0}
