"""CORE: what each peer has under way: requests, watches, and the questions that these ask."""

from collections import Counter
from collections.abc import Callable, Hashable

from registry_server.errors import LimitExceeded
from registry_server.limits.quotas import Quotas

# Requests of so many seconds may come at once.
BURST_S = 2.0
# Peers that have nothing under way are forgotten when there are so many.
MAX_ACCOUNTS = 10_000


class Account:
    """What one peer has under way."""

    __slots__ = ("_at", "_now", "_quotas", "_room", "filters", "requests", "watches")

    def __init__(self, quotas: Quotas, now: Callable[[], float]) -> None:
        self.requests = 0
        self.watches = 0
        self.filters: Counter[Hashable] = Counter()
        self._quotas = quotas
        # Requests that may still come, which are more when there are none left.
        self._room = BURST_S * quotas.max_requests_per_s_per_peer
        self._at = now()
        self._now = now

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.requests and not self.watches

    def ask(self) -> None:
        """One more request begins; `requests` is the caller's to count. Raises LimitExceeded."""
        if self._room < 1.0 or self.requests >= self._quotas.max_requests_per_peer:
            self._look()
        self._room -= 1.0

    def _look(self) -> None:
        quotas = self._quotas
        if self.requests >= quotas.max_requests_per_peer:
            most = f"{quotas.max_requests_per_peer:,} requests of one peer are being answered, and no more may be"
            raise LimitExceeded("max_requests_per_peer", most)
        rate, now = quotas.max_requests_per_s_per_peer, self._now()
        self._room = min(BURST_S * rate, self._room + (now - self._at) * rate)
        self._at = now
        if self._room < 1.0:
            raise LimitExceeded("max_requests_per_s_per_peer", f"one peer may make {rate:,} requests a second")

    def watch(self, question: Hashable | None) -> None:
        """One more watch begins; `question` is its filter, if it has one. Raises LimitExceeded."""
        quotas = self._quotas
        if self.watches >= quotas.max_watches_per_peer:
            most = f"one peer may have {quotas.max_watches_per_peer:,} watches at a time"
            raise LimitExceeded("max_watches_per_peer", most)
        if question is not None:
            if question not in self.filters and len(self.filters) >= quotas.max_filters_per_peer:
                most = f"one peer may watch with {quotas.max_filters_per_peer:,} different filters at a time"
                raise LimitExceeded("max_filters_per_peer", most)
            self.filters[question] += 1
        self.watches += 1

    def leave(self, question: Hashable | None) -> None:
        """A watch is over."""
        self.watches -= 1
        if question is not None:
            self.filters[question] -= 1
            if not self.filters[question]:
                del self.filters[question]


class Accounts:
    """The accounts of all peers that have something under way, and of some that had lately. `now` is monotonic, in
    seconds."""

    def __init__(self, quotas: Quotas, now: Callable[[], float]) -> None:
        self._now = now
        self.watches = 0
        self._quotas = quotas
        self._accounts: dict[str, Account] = {}
        self._sweep_at = MAX_ACCOUNTS

    def __len__(self) -> int:
        """How many there are."""
        return len(self._accounts)

    def of(self, peer: str) -> Account:
        """The account of a peer."""
        account = self._accounts.get(peer)
        if account is None:
            if len(self._accounts) >= self._sweep_at:
                self._sweep()
            account = self._accounts[peer] = Account(self._quotas, self._now)
        return account

    def watch(self, account: Account, question: Hashable | None) -> None:
        """One more watch begins. Raises LimitExceeded."""
        if self.watches >= self._quotas.max_watches:
            raise LimitExceeded("max_watches", f"there are {self.watches:,} watches, and no more may be")
        account.watch(question)
        self.watches += 1

    def leave(self, account: Account, question: Hashable | None) -> None:
        """A watch is over."""
        account.leave(question)
        self.watches -= 1

    def _sweep(self) -> None:
        self._accounts = {peer: account for peer, account in self._accounts.items() if not account.is_idle}
        self._sweep_at = max(MAX_ACCOUNTS, 2 * len(self._accounts))
