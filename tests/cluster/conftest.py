"""Ray reads where it may listen when it is loaded, which test modules do."""

from importlib.util import find_spec

from atts.cluster.connection import load_ray

if find_spec("ray"):
    load_ray(is_local=True)
