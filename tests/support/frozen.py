"""Prepare the fork server: what takes long, and is the same for each forked process, happens once.

Frozen objects are those that no collection of a forked process looks at, so that it copies no pages of them.
"""

import gc

from service.outbound.reuse import tls_context

tls_context()
gc.collect()
gc.freeze()
