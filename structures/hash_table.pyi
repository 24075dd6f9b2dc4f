from structures.mapping import Mapping

class HashTable(Mapping):
    KIND: int
