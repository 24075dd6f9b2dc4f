from structures._mapping import Mapping

class HashTable(Mapping):
    KIND: int
