"""CORE: what registry.proto says in numbers and by rules, for both sides of it: limits, defaults, what a name is.

This file and tracing.py alone in `registry_api` are written by hand. Times are in seconds.
"""

import re

DEFAULT_NAMESPACE = "default"
DEFAULT_VERSION = "1.0.0"
DEFAULT_WEIGHT, MAX_WEIGHT = 100, 1_000_000
MIN_TTL_S, DEFAULT_TTL_S, MAX_TTL_S = 2.0, 15.0, 3600.0
MAX_DRAIN_S = 3600.0
# In characters: names, and texts that are shown in a line, such as a version.
MAX_NAME = 128
# Of tags and metadata together.
MAX_LABEL_BYTES = 16 * 1024
# Numbers up to this are whole in every language, in JSON too. Microseconds since 1970 reach it in the year 2255.
MAX_GENERATION = 2**53
# In one request.
MAX_SERVICES = 1_000
MAX_LEASE_IDS = 10_000
DEFAULT_PAGE, MAX_PAGE = 1_000, 10_000

# Of a namespace, a service or an instance.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@~+-]{0,127}")
NAME_RULE = f"must be 1 to {MAX_NAME} letters, digits and any of _ . : @ ~ + -, beginning with a letter, a digit or _"
# A DNS name, or an IPv4 address.
HOST = re.compile(r"(?!.{254})[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?")
# Such a name would be an IPv4 address, and a wrong one (https://url.spec.whatwg.org/#ends-in-a-number-checker).
ENDS_IN_NUMBER = re.compile(r"(?:^|\.)\d+\.?$", re.ASCII)
# A registry at a file of the same machine: unix:PATH, which gRPC also writes unix:///PATH. What has a host is no path,
# and what nobody can show is none either.
UNIX = "unix:"
UNIX_ADDRESS = re.compile(r"unix:(?://(?=/))?(?P<path>(?!//)[^\x00-\x1f\x7f\ud800-\udfff]+)")
