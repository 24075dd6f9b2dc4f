"""rfp-ycsb and rfp-experiments: benchmarks of this package and of other databases."""

import os

if os.path.exists(os.path.join(__path__[0], "meson.build")):
    from rfp.core.source_tree import import_installed

    import_installed(__name__)
