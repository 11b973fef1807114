"""CORE: what can be wrong with a request, as data. `transport/status.py` holds the one table from these to gRPC
statuses."""

# Of a secret, so much is shown: enough to tell it from others, and to find a lease in etcd by.
SHOWN = 16


def shortened(lease_id: str) -> str:
    """A lease as errors name it. Its id is a secret, and errors go into logs: the beginning says which."""
    return lease_id if len(lease_id) <= SHOWN else f"{lease_id[:SHOWN]}…"


class RequestError(Exception):
    """Root of all that a caller is told. The text is written for the caller; it never carries an inner exception's."""


class InvalidField(RequestError):
    """A field of the request is wrong. `field` is its path in the message, such as `instance.port`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class NotFound(RequestError):
    """There is no such thing. `kind` is `lease`, `instance` or `service`."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no such {kind}: {name}")
        self.kind = kind
        self.name = name

    @classmethod
    def lease(cls, lease_id: str) -> "NotFound":
        """There is no such lease."""
        return cls("lease", shortened(lease_id))


class OwnershipLost(RequestError):
    """The instance is not the caller's (any more): another owner has its id, or it leaves. `reason` says which."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name


class Unauthenticated(RequestError):
    """Who calls did not say who it is, or could not prove it."""


class PermissionDenied(RequestError):
    """The caller is known, and has not the `right` to `name`, which is NAMESPACE/SERVICE with `*` for every one."""

    def __init__(self, identity: str, right: str, name: str, reason: str = "") -> None:
        super().__init__(reason or f"{identity or 'nobody'} has not the right `{right}` on {name}")
        self.right = right
        self.name = name


class LimitExceeded(RequestError):
    """A limit of the server was reached."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"{subject}: {reason}")
        self.subject = subject
        self.reason = reason


def too_many_long() -> LimitExceeded:
    """Of requests of one peer that are dealt with one after the other, more wait than may, or one waits too long."""
    return LimitExceeded("max_requests_per_peer", "too many that take long wait for one another")


class Contended(RequestError):
    """Other writers changed the same instance at the same time, several times over, or have what is asked for."""

    def __init__(self, name: str, reason: str = "changed by others at the same time; try again") -> None:
        super().__init__(f"{name}: {reason}")


class Unavailable(RequestError):
    """What is needed cannot be reached just now; trying again after `retry_after_s` seconds makes sense."""

    def __init__(self, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
