"""Which Redis is the master now, as its Sentinels know it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from hub.link_redis import Link, LinkLost, Refused, connect
from hub.target_redis import Address, Login


class Sentinels:
    """
    The Sentinels of one master, over connections that are kept.

    timeout: seconds in which a Sentinel has to answer; one that does not is left out, not waited for.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        master: str,
        *,
        login: Login,
        tls: ssl.SSLContext | None,
        timeout: float,
    ) -> None:
        self._addresses = tuple(addresses)
        self._master = master
        self._login = login
        self._tls = tls
        self._timeout = timeout
        self._links: dict[Address, Link] = {}

    async def master(self) -> Address:
        """
        The master's address by the newest configuration that any Sentinel knows.

        A Sentinel that is cut off still names the master of before a failover, but with the older configuration epoch.
        Raises LinkLost when none answers.
        """
        answers = await asyncio.gather(*map(self._ask, self._addresses))
        known = [answer for answer in answers if answer is not None]
        if not known:
            raise LinkLost(f"no Sentinel knows the master {self._master}")
        return max(known, key=lambda answer: answer[0])[1]

    def close(self) -> None:
        for link in self._links.values():
            link.abort("closed")
        self._links.clear()

    async def _ask(self, address: Address) -> tuple[int, Address] | None:
        """(configuration epoch, master's address) from one Sentinel; None when it is away or does not know."""
        try:
            async with asyncio.timeout(self._timeout):
                link = self._links.get(address)
                if link is None or link.closed.done():
                    link, _ = await connect(address, login=self._login, tls=self._tls)
                    self._links[address] = link
                state, where = await asyncio.gather(
                    link.ask("SENTINEL", "MASTER", self._master),
                    link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master),
                )
        except TimeoutError:  # frozen, or the link is half open: a new one next time
            if stale := self._links.pop(address, None):
                stale.abort("no answer in time")
            return None
        except (OSError, LinkLost, Refused):
            return None
        if not isinstance(state, dict) or not isinstance(where, list):
            return None
        host, port = where
        return int(state[b"config-epoch"]), Address(host.decode(), int(port))
