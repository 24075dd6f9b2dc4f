"""Started by every interpreter under scripts/with-sanitizers: sends the undefined-behaviour sanitizer's reports to files too.

Its log_path option does not: libubsan calls __sanitizer_set_report_path, and gets that of libasan, which is loaded before it.
"""

import ctypes
import os

ctypes.CDLL("libubsan.so.1").__sanitizer_set_report_path(os.environ["SANITIZER_REPORTS"].encode())
