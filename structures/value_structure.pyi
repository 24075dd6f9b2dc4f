from rnvm.frontend.structure import Structure

class ValueStructure(Structure):
    @property
    def largest_value(self) -> int: ...
