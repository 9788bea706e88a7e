"""Sockets: the handshake (sans-IO), framed connections, listeners, dialers, TLS. Knows nothing of consensus or logs."""
