"""Run by every interpreter under scripts/with-sanitizers: writes libubsan's reports to files too.

Its log_path option does not: libubsan calls __sanitizer_set_report_path, and gets libasan's
function, because libasan is loaded before it.
"""

import ctypes
import os

ctypes.CDLL("libubsan.so.1").__sanitizer_set_report_path(os.environ["SANITIZER_REPORTS"].encode())
