from rfp._fabric import EventChannel, QueuePair
from rfp._verbs_device import Device, Domain
from rfp.address import RdmaOptions

HINTS: dict[int, str]

class VerbsEventChannel(EventChannel):
    def __init__(self, device: Device) -> None: ...

class VerbsQueuePair(QueuePair):
    def __init__(self, domain: Domain, channel: VerbsEventChannel, pidfd: int, control: int, options: RdmaOptions) -> None: ...
    @property
    def number(self) -> int: ...
