"""Sizes and limits that more than one layer uses; limits.h defines them."""

import os

LINE = RFP_LINE
PAGE = RFP_PAGE
WORKERS_MAX = RFP_WORKERS_MAX
SLOTS_MAX = RFP_SLOTS_MAX
SLOT_BYTES_MAX = RFP_SLOT_BYTES_MAX
SIZE_CLASSES = RFP_SIZE_CLASSES

system_page = os.sysconf("SC_PAGE_SIZE")
SYSTEM_PAGE = system_page
