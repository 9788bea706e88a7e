"""Every decoder of foreign bytes, as the fuzz tests and the coverage-guided campaign see it."""

from kit.decoders import applications, channel, configuration, data_plane, protocol, sessions, storage
from kit.fuzzing import Decoder

ALL: list[Decoder] = [
    *protocol.DECODERS,
    *data_plane.DECODERS,
    *channel.DECODERS,
    *sessions.DECODERS,
    *storage.DECODERS,
    *applications.DECODERS,
    *configuration.DECODERS,
]
