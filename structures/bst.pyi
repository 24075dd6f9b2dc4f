from structures.ordered_mapping import OrderedMapping

class BST(OrderedMapping):
    KIND: int
