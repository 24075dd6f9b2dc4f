from rfp.address import RdmaOptions
from rfp.fabric.fabric import EventChannel, QueuePair
from rfp.fabric.verbs.device import Device, Domain

HINTS: dict[int, str]

class VerbsEventChannel(EventChannel):
    def __init__(self, device: Device) -> None: ...

class VerbsQueuePair(QueuePair):
    def __init__(
        self,
        domain: Domain,
        channel: VerbsEventChannel,
        pidfd: int,
        control: int,
        options: RdmaOptions,
    ) -> None: ...
    @property
    def number(self) -> int: ...
