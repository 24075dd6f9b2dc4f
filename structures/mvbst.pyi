from structures.snapshot import VersionedMapping

class MVBST(VersionedMapping):
    KIND: int
