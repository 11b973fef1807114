"""SHELL: what a client shows of itself to a registry, and how it knows that it is the right one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypedDict

import grpc
import grpc.aio

from registry_api.limits import UNIX
from registry_client import checks
from registry_client.addresses import is_of_this_machine
from registry_client.bearer import VARIABLE, Bearer, Metadata, Token, check_token
from registry_client.tls import TLS, Contents, trouble_with_any

ChannelOptions: TypeAlias = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Papers:
    """gRPC's credentials or TLS of ours, or neither, and a token. `contents`: of the files of TLS, as they were."""

    credentials: grpc.ChannelCredentials | None = None
    tls: TLS | None = None
    contents: Contents | None = field(default=None, repr=False)
    token: Token | None = field(default=None, repr=False)

    @property
    def speaks_tls(self) -> bool:
        """Whether nobody else hears what is said."""
        return self.credentials is not None or self.tls is not None


NO_PAPERS = Papers()


class Shown(TypedDict, total=False):
    """What `connect` takes of that."""

    credentials: grpc.ChannelCredentials | None
    tls: TLS | None
    token: Token | None
    plaintext_token: bool


def check_papers(
    addresses: Sequence[str],
    credentials: object = None,
    tls: object = None,
    token: object = None,
    *,
    plaintext_token: object = False,
) -> Papers:
    """What `connect` is given for these addresses; without any, for a registry in this process. Raises
    InvalidArgument."""
    shown = checks.instance_of("credentials", grpc.ChannelCredentials, credentials)
    files = checks.instance_of("tls", TLS, tls)
    may_be_seen = checks.yes_or_no("plaintext_token", plaintext_token)
    if not addresses:
        for name, given in (("credentials", credentials), ("tls", tls), ("token", token)):
            if given is not None:
                raise checks.wrong(name, "has no meaning for a registry inside of this process")
        return NO_PAPERS
    if shown is not None and files is not None:
        raise checks.wrong("tls", "must not be there beside credentials")
    papers = Papers(shown, files, None if files is None else files.read(), check_token(token))
    if papers.token is not None and not papers.speaks_tls and not may_be_seen:
        _check_hidden(addresses, f"that of ${VARIABLE} " if token is None else "")
    return papers


def _check_hidden(addresses: Sequence[str], which: str) -> None:
    """A token is for nobody else. Raises InvalidArgument if it would leave this machine for everybody to read."""
    for address in addresses:
        if not is_of_this_machine(address):
            rule = f"{which}would go to {address} without TLS, for everybody on the way to read"
            raise checks.wrong("token", f"{rule}: connect with tls, or with plaintext_token if that is meant")


class Dialer:
    """Opens the channels of one client to the addresses for which these papers are."""

    def __init__(self, papers: Papers) -> None:
        self._papers = papers
        self._bearer = Bearer(papers.token)
        self.speaks_tls = papers.speaks_tls

    def contents_now(self, address: str) -> Contents | None:
        """What a channel to that address is made of now. A socket's file is of this machine, and without TLS."""
        it = self._papers
        if it.tls is None or it.contents is None or address.startswith(UNIX):
            return None
        return it.tls.read_again(it.contents)

    def channel(self, address: str, contents: Contents | None, options: ChannelOptions) -> grpc.aio.Channel:
        """To an address of the registry."""
        credentials = self._papers.credentials if contents is None else contents.credentials()
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    async def metadata(self) -> Metadata:
        """What goes with each call. Raises RegistryUnavailable when a token is asked for and cannot be had."""
        return await self._bearer.metadata()

    def refused(self) -> bool:
        """The registry does not know the token. Whether there may be another one, which is asked for then."""
        return self._bearer.refused()

    async def trouble_at(self, address: str) -> str:
        """What is wrong with TLS there, in a line; nothing if that cannot be told."""
        return await trouble_with_any(self._papers.tls, address)
