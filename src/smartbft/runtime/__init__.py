"""Where the pure core meets sockets, disks and clocks: replicas, clients, and a whole cluster in one process."""
