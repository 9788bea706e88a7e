"""State machine replication above the ordering: what an application is, and how it is run."""
