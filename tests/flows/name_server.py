"""A DNS server on loopback that knows the TXT records it is given."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class NameServer:
    """`with NameServer({"_x.site.example": ["one", "a long one, in pieces"]}) as server:`; what is asked is counted."""

    def __init__(self, records: dict[str, list[str]]) -> None:
        self.records, self.asked = records, list[str]()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)

    @property
    def address(self) -> str:
        host, port = self._socket.getsockname()
        return f"{host}:{port}"

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4096)
            if data == b"stop":
                return
            query = dns.message.from_wire(data)
            [question] = query.question
            name = question.name.to_text(omit_final_dot=True)
            self.asked.append(name)
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.AA
            texts = self.records.get(name.lower())
            if texts is None:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            elif question.rdtype == dns.rdatatype.TXT:
                pieces = [" ".join(f'"{text[i : i + 40]}"' for i in range(0, len(text), 40)) for text in texts]
                answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", *pieces))
            self._socket.sendto(answer.to_wire(), peer)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"stop", self._socket.getsockname())
        self._thread.join()
        self._socket.close()
