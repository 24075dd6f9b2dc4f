from structures.ordered_mapping import OrderedMapping

class BPlusTree(OrderedMapping):
    KIND: int
