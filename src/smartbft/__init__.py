"""Byzantine fault-tolerant state machine replication, from BFT-SMaRt's line of protocols."""
