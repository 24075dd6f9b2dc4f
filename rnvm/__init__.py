"""Persistent, recoverable data structures in memory that a few back-ends own (rNVM / AsymNVM)."""

import os
from typing import TYPE_CHECKING

from rfp.core.lazy_names import lazy_names

if TYPE_CHECKING:
    from rnvm.backend.backend import Backend
    from rnvm.connecting import connect
    from rnvm.frontend.frontend import FrontEnd
    from rnvm.group.driver import GroupMember
    from rnvm.mirror.mirror import Mirror, backup
elif os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "Backend": "rnvm.backend.backend",
            "FrontEnd": "rnvm.frontend.frontend",
            "GroupMember": "rnvm.group.driver",
            "Mirror": "rnvm.mirror.mirror",
            "backup": "rnvm.mirror.mirror",
            "connect": "rnvm.connecting",
        },
    )

__all__ = ["Backend", "FrontEnd", "GroupMember", "Mirror", "backup", "connect"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
