"""The native codec: beats as sealed datagrams, and datagrams as beats or one-line reasons.

Answers: may we believe these bytes, and what do they say? Any bytes give a `Beat`, a
`PieceKept` or a `Rejected`; nothing a peer or a stranger sends raises.

A datagram, version 1, numbers big-endian:

    clear     magic "OSHB" (4), version (1), length of the sender's name (1), key id (2),
              cluster tag (8), link tag (4), session (16), counter (8), sender's name
    sealed    length of the head (2), head; with a table also: the table's compressed
              length (4), where this piece of it starts (4), the piece
    (AES-256-GCM: the clear part is associated data, 16 bytes of tag at the end)

The sealing key is derived (HKDF-SHA256) from the cluster's key for one cluster, sender, link
and session; a session is 16 random bytes of one `Sealer`, whose counter is the nonce: two
nodes, two links, two lives of a daemon, or a reinstalled node never use a nonce twice.

Every datagram carries a whole head, so that a beat whose table lost a piece is still a beat.
Pieces of one table (same session, digest and length) may come with different beats: on disk
one piece is written at a time, each with the newest head. An `Opener` gives, for a beat with
a table in several pieces, a steady `Beat` (table None) for the first datagram, `PieceKept`
for those between, and for the one that completes the table the beat *again*, with its table:
the one case in which a sequence is handed over twice.

Replays: `(incarnation, sequence)` must grow on this link, or be equal and bring a new piece.
Not authenticated here: that a beat is *recent* when this daemon has just started; that is
what acknowledgements are for (core), and the baseline of a disk slot (`slot_file`).

Runs in: the link's own thread; a `Sealer` or `Opener` belongs to one thread.
"""

from __future__ import annotations

import enum
import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, List, Mapping, Optional, Tuple, Union

from opensvc_hb.core.messages import Beat, link_tag
from opensvc_hb.errors import HbError
from opensvc_hb.links import beat_bytes, table_bytes
from opensvc_hb.links.beat_bytes import MalformedError
from opensvc_hb.links.table_assembly import TableAssembly
from opensvc_hb.links.table_bytes import TableDecoder, TableEncoder

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from opensvc_hb.core.config import Link
    from opensvc_hb.links.keyring import ClusterKey, Keyring

MAGIC = b"OSHB"
FORMAT_VERSION = 1
DATAGRAM_MAX_BYTES = 1200
SESSION_BYTES = 16
TAG_BYTES = 16
SESSIONS_MAX = 16
"""Derived keys kept by an opener: a peer's sessions follow each other, so a few are enough."""

_CLEAR = struct.Struct("!4sBBH8sI16sQ")
_HEAD_LENGTH = struct.Struct("!H")
_PIECE = struct.Struct("!II")
_NONCE = struct.Struct("!IQ")
_NAME_LENGTH_AT = 5
_SHORTEST_BYTES = _CLEAR.size + 1 + _HEAD_LENGTH.size + TAG_BYTES


class RejectReason(str, enum.Enum):
    """Why bytes are not a beat; the value names the counter, in JSON too."""

    TOO_SHORT = "too short"
    NOT_OURS = "not ours"
    VERSION = "other version"
    FOREIGN_CLUSTER = "foreign cluster"
    OTHER_LINK = "other link"
    UNKNOWN_KEY = "unknown key"
    OWN_BEAT = "own beat"
    WRONG_SENDER = "wrong sender"
    NOT_AUTHENTIC = "not authentic"
    MALFORMED = "malformed"
    REPLAYED = "replayed"
    # Of OpenHA's structure only.
    TOO_LONG = "too long"
    UNTERMINATED = "name not terminated"
    STATE = "state out of range"


@dataclass(frozen=True)
class Rejected:
    """Bytes that are no beat for this link; `text` is one line."""

    reason: RejectReason
    text: str


_NOT_AUTHENTIC = Rejected(RejectReason.NOT_AUTHENTIC, "does not open with the cluster's key")


@dataclass(frozen=True)
class PieceKept:
    """An authentic piece of a table that is not complete yet; its beat was handed over before."""

    have_bytes: int
    total_bytes: int


Opened = Union[Beat, PieceKept, Rejected]


@dataclass(frozen=True)
class ClearHeader:
    """What a datagram says in clear: a claim, not a proof."""

    key_id: int
    cluster_tag: bytes
    link_tag: int
    session: bytes
    counter: int
    sender: str


class BeatTooLargeError(HbError):
    """A beat cannot be cut into datagrams: its head alone is too long, or its table too big."""


class Sealer:
    """Seals the beats of one link. Never used by two threads.

    Args:
        sender: this node.
        link_id: `Link.id`.
        random_session: `SESSION_BYTES` random bytes that no other sealer ever had; None takes
            them from the system.
        tables: shared by all sealers of this node; None for one of its own.
    """

    def __init__(
        self,
        keyring: Keyring,
        sender: str,
        link_id: str,
        random_session: Optional[bytes] = None,
        tables: Optional[TableEncoder] = None,
    ) -> None:
        session = secrets.token_bytes(SESSION_BYTES) if random_session is None else random_session
        assert len(session) == SESSION_BYTES, "a session has 16 bytes"
        self._sender = sender.encode()
        self._counter = 0
        self._key_id = keyring.sealing.id
        self._cluster_tag = keyring.cluster_tag
        self._link_tag = link_tag(link_id)
        self._session = session
        self._cipher = _derive(keyring, keyring.sealing, self._sender, self._link_tag, session)
        self._tables = TableEncoder() if tables is None else tables

    def seal(self, beat: Beat, with_table: bool, limit_bytes: int = DATAGRAM_MAX_BYTES) -> List[bytes]:
        """Return the datagrams of a beat, none longer than `limit_bytes`.

        Raises:
            BeatTooLargeError: no datagram of that size can hold its head, or its table is beyond
                every limit.
        """
        if not with_table or beat.table is None:
            return [self._seal(beat, b"", limit_bytes)]
        datagrams = []
        start = 0
        while True:
            datagram, start = self.seal_piece(beat, start, limit_bytes)
            datagrams.append(datagram)
            if start == 0:
                return datagrams

    def seal_piece(self, beat: Beat, start: int, limit_bytes: int) -> Tuple[bytes, int]:
        """Return one datagram with the piece of the table at `start`, and where the next starts.

        The next start is 0 when this piece was the last one. `start` must come from a piece
        of the same table (same digest), or be 0.
        """
        assert beat.table is not None, "a steady beat has no pieces"
        table = self._compressed(beat)
        overhead = _CLEAR.size + len(self._sender) + _HEAD_LENGTH.size + _PIECE.size + TAG_BYTES
        room = limit_bytes - overhead - len(beat_bytes.encode_head(beat))
        if room < 1:
            raise BeatTooLargeError(f"hearings of {len(beat.hearings)} peers do not fit {limit_bytes} bytes")
        piece = table[start : start + room]
        end = start + len(piece)
        datagram = self._seal(beat, _PIECE.pack(len(table), start) + piece, limit_bytes)
        return datagram, end if end < len(table) else 0

    def _compressed(self, beat: Beat) -> bytes:
        assert beat.table is not None, "only a beat with a table is asked for it"
        table = self._tables.encode(beat.table)
        if len(table) > table_bytes.TABLE_COMPRESSED_MAX_BYTES:
            raise BeatTooLargeError(f"the table of {len(beat.table)} services is too large to be sent")
        return table

    def _seal(self, beat: Beat, behind_head: bytes, limit_bytes: int) -> bytes:
        head = beat_bytes.encode_head(beat)
        self._counter += 1
        clear = (
            _CLEAR.pack(
                MAGIC,
                FORMAT_VERSION,
                len(self._sender),
                self._key_id,
                self._cluster_tag,
                self._link_tag,
                self._session,
                self._counter,
            )
            + self._sender
        )
        plain = _HEAD_LENGTH.pack(len(head)) + head + behind_head
        datagram = clear + self._cipher.encrypt(_NONCE.pack(0, self._counter), plain, clear)
        if len(datagram) > limit_bytes:
            raise BeatTooLargeError(f"hearings of {len(beat.hearings)} peers do not fit {limit_bytes} bytes")
        return datagram


class Opener:
    """Opens what arrives on one link, and remembers what it accepted. Never used by two threads.

    Args:
        link: the line of another node.
        floors: the lowest incarnation to accept from each node; 0 for nodes not named.
        node: this node, whose own beats may come back on a multicast group.
        tables: shared by all openers for that other node; None for one of its own.
    """

    def __init__(
        self,
        keyring: Keyring,
        link: Link,
        floors: Mapping[str, int],
        node: str,
        tables: Optional[TableDecoder] = None,
    ) -> None:
        self._keyring = keyring
        self._cluster_tag = keyring.cluster_tag
        self._link_tag = link_tag(link.id)
        self._sender = link.node
        self._sender_bytes = link.node.encode()
        self._node_bytes = node.encode()
        self._floor = floors.get(link.node, 0)
        self._ciphers: OrderedDict[Tuple[int, bytes], AESGCM] = OrderedDict()
        self._last: Optional[Tuple[int, int]] = None
        self._last_is_complete = True
        self._assembly: Optional[TableAssembly] = None
        self._tables = TableDecoder() if tables is None else tables

    def begin_again(self) -> None:
        """Forget what was accepted, since all of it was there before anybody looked. The floor stays."""
        self._last, self._last_is_complete, self._assembly = None, True, None

    def open(self, data: bytes) -> Opened:
        """Return what `data` says. Cheap checks first: junk costs about a microsecond."""
        rejected = self._refuse_clear(data)
        if rejected is not None:
            return rejected
        _, _, name_length, key_id, _, _, session, counter = _CLEAR.unpack_from(data)
        plain = self._decrypt(data, _CLEAR.size + name_length, key_id, session, counter)
        if plain is None:
            return _NOT_AUTHENTIC
        try:
            beat, behind_head = _split(plain, self._sender)
            return self._accept(beat, session, behind_head)
        except (MalformedError, struct.error) as error:
            return Rejected(RejectReason.MALFORMED, str(error))

    def _refuse_clear(self, data: bytes) -> Optional[Rejected]:
        """Return why the clear part disqualifies the bytes, None when they deserve a key."""
        malformed = _refuse_form(data)
        if malformed is not None:
            return malformed
        _, _, name_length, key_id, cluster_tag, tag, _, _ = _CLEAR.unpack_from(data)
        if cluster_tag != self._cluster_tag:
            return _foreign(cluster_tag)
        if tag != self._link_tag:
            return Rejected(RejectReason.OTHER_LINK, f"a beat of another link (tag {tag:08x})")
        sender = data[_CLEAR.size : _CLEAR.size + name_length]
        if sender != self._sender_bytes:
            if sender == self._node_bytes:
                return Rejected(RejectReason.OWN_BEAT, "our own beat came back")
            # The name is only claimed, and by anybody: shown quoted, never used.
            return Rejected(
                RejectReason.WRONG_SENDER,
                f"the line is {self._sender}'s, the beat says {sender.decode('utf-8', 'replace')!a}",
            )
        if self._keyring.key(key_id) is None:
            return _unknown_key(key_id)
        return None

    def _decrypt(
        self, data: bytes, clear_length: int, key_id: int, session: bytes, counter: int
    ) -> Optional[bytes]:
        """Return what was sealed, None when it is not authentic."""
        from cryptography.exceptions import InvalidTag

        known = self._ciphers.get((key_id, session))
        cipher = known
        if cipher is None:
            key = self._keyring.key(key_id)
            assert key is not None, "the clear part was checked before"
            cipher = _derive(self._keyring, key, self._sender_bytes, self._link_tag, session)
        try:
            plain = cipher.decrypt(_NONCE.pack(0, counter), data[clear_length:], data[:clear_length])
        except InvalidTag:
            return None
        if known is None:
            # Only what has proved authentic is kept, so that junk cannot push it out.
            self._ciphers[(key_id, session)] = cipher
            if len(self._ciphers) > SESSIONS_MAX:
                self._ciphers.popitem(last=False)
        return plain

    def _accept(self, beat: Beat, session: bytes, behind_head: bytes) -> Opened:
        """Apply the replay rules, then see what the piece of a table behind the head adds."""
        position = (beat.incarnation, beat.sequence)
        if beat.incarnation < self._floor:
            return Rejected(
                RejectReason.REPLAYED,
                f"incarnation {beat.incarnation}, while {self._floor} was accepted before this daemon",
            )
        is_new = self._last is None or position > self._last
        if not is_new and (position != self._last or self._last_is_complete):
            return self._replayed(position)
        if not behind_head:
            if not is_new:
                return self._replayed(position)
            self._last, self._last_is_complete = position, True
            return beat
        total, start = _PIECE.unpack_from(behind_head)
        key = (session, beat.table_digest, total)
        assembly = self._assembly
        if assembly is None or assembly.key != key:
            assembly = TableAssembly(key, total)
        added = assembly.add(start, behind_head[_PIECE.size :])
        if not is_new and not added:
            return self._replayed(position)
        self._assembly = assembly
        self._last, self._last_is_complete = position, False
        if assembly.have_bytes < total:
            return beat if is_new else PieceKept(assembly.have_bytes, total)
        self._assembly = None
        self._last_is_complete = True
        try:
            return replace(beat, table=self._tables.decode(assembly.joined()))
        except MalformedError as error:
            if is_new:
                # The head is authentic and new: it counts, whatever became of the table.
                return beat
            return Rejected(RejectReason.MALFORMED, str(error))

    def _replayed(self, position: Tuple[int, int]) -> Rejected:
        return Rejected(
            RejectReason.REPLAYED,
            f"incarnation {position[0]} sequence {position[1]} is not above {_written(self._last)}",
        )


def sealing_key_id(datagram: bytes) -> int:
    """Return the id of the key that sealed a datagram which was opened."""
    return int(_CLEAR.unpack_from(datagram)[3])


def read_clear_header(data: bytes) -> Union[ClearHeader, Rejected]:
    """Return what a datagram says in clear, without any key: a claim, for people to read."""
    malformed = _refuse_form(data)
    if malformed is not None:
        return malformed
    _, _, name_length, key_id, cluster_tag, tag, session, counter = _CLEAR.unpack_from(data)
    sender = data[_CLEAR.size : _CLEAR.size + name_length].decode("utf-8", "replace")
    return ClearHeader(key_id, cluster_tag, tag, session, counter, sender)


def open_captured(data: bytes, keyring: Keyring) -> Union[Beat, Rejected]:
    """Return what one captured datagram says, whoever sent it on whichever link, and however old.

    For people who look at captures: nothing is remembered, no replay is noticed. The table is
    there if all of it is in this datagram.
    """
    from cryptography.exceptions import InvalidTag

    header = read_clear_header(data)
    if isinstance(header, Rejected):
        return header
    if header.cluster_tag != keyring.cluster_tag:
        return _foreign(header.cluster_tag)
    key = keyring.key(header.key_id)
    if key is None:
        return _unknown_key(header.key_id)
    name_end = _CLEAR.size + data[_NAME_LENGTH_AT]
    cipher = _derive(keyring, key, data[_CLEAR.size : name_end], header.link_tag, header.session)
    try:
        plain = cipher.decrypt(_NONCE.pack(0, header.counter), data[name_end:], data[:name_end])
        beat, behind_head = _split(plain, header.sender)
        if not behind_head:
            return beat
        total, start = _PIECE.unpack_from(behind_head)
        piece = behind_head[_PIECE.size :]
        is_whole = start == 0 and len(piece) == total
        return replace(beat, table=table_bytes.decode_table(piece)) if is_whole else beat
    except InvalidTag:
        return _NOT_AUTHENTIC
    except (MalformedError, struct.error) as error:
        return Rejected(RejectReason.MALFORMED, str(error))


def _refuse_form(data: bytes) -> Optional[Rejected]:
    """Return why the bytes cannot be a datagram of this format, whoever's it is."""
    if len(data) < _SHORTEST_BYTES:
        return Rejected(RejectReason.TOO_SHORT, f"{len(data)} bytes are too few for a beat")
    if not data.startswith(MAGIC):
        return Rejected(RejectReason.NOT_OURS, "does not begin like a beat")
    if data[len(MAGIC)] != FORMAT_VERSION:
        version = data[len(MAGIC)]
        return Rejected(RejectReason.VERSION, f"format version {version}, {FORMAT_VERSION} is known here")
    return None


def _foreign(cluster_tag: bytes) -> Rejected:
    return Rejected(RejectReason.FOREIGN_CLUSTER, f"of the cluster with tag {cluster_tag.hex()}")


def _unknown_key(key_id: int) -> Rejected:
    return Rejected(RejectReason.UNKNOWN_KEY, f"sealed with key {key_id}, which we do not have")


def _split(plain: bytes, sender: str) -> Tuple[Beat, bytes]:
    """Return the beat of an opened datagram, without its table, and what stands behind its head.

    Raises:
        MalformedError, struct.error: the bytes say nothing.
    """
    (head_length,) = _HEAD_LENGTH.unpack_from(plain)
    head_end = _HEAD_LENGTH.size + head_length
    return beat_bytes.decode_head(plain[_HEAD_LENGTH.size : head_end], sender), plain[head_end:]


def _derive(keyring: Keyring, key: ClusterKey, sender: bytes, tag: int, session: bytes) -> AESGCM:
    """Return the cipher of one session: of a cluster, a sender and a link, as the clear part names them.

    AES-GCM rather than ChaCha20: hosts in FIPS mode have it too.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    # Each part with its length in front: no two different lists give the same bytes.
    parts = (b"opensvc_hb beat", keyring.cluster_id, sender, tag.to_bytes(4, "big"), session)
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key.secret))


def _written(position: Optional[Tuple[int, int]]) -> str:
    return "anything" if position is None else f"{position[0]} sequence {position[1]}"
